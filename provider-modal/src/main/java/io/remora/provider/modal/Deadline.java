// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import io.remora.provider.modal.ModalApi.Limits;
import io.remora.runtime.ProviderException;
import java.time.Duration;
import java.util.function.BooleanSupplier;

/**
 * The deadline for a node's start.
 *
 * @param endNanos the end, as a {@link System#nanoTime}
 * @param abandoned whether the node is no longer wanted
 */
record Deadline(long endNanos, BooleanSupplier abandoned) {

  static Deadline in(Duration limit, BooleanSupplier abandoned) {
    return new Deadline(System.nanoTime() + limit.toNanos(), abandoned);
  }

  /**
   * Whether there is no time left.
   *
   * @throws ProviderException if the node is no longer wanted
   */
  boolean isOver() {
    if (abandoned.getAsBoolean()) {
      throw new ProviderException("abandoned: nobody waits for the node any more");
    }
    return left().isZero();
  }

  Duration left() {
    return Duration.ofNanos(Math.max(0, endNanos - System.nanoTime()));
  }

  Duration atMost(Duration limit) {
    return left().compareTo(limit) < 0 ? left() : limit;
  }

  /**
   * The limits of a call whose attempts may take this long. A call that has begun may continue past
   * the deadline; the deadline is checked, and its error thrown, between calls.
   */
  Limits limits(Duration attempt) {
    return new Limits(attempt, left(), abandoned);
  }
}
