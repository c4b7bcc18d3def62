// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import io.remora.provider.modal.ModalApi.Limits;
import io.remora.runtime.ProviderException;
import java.time.Duration;
import java.util.function.BooleanSupplier;

/**
 * When a node must be there.
 *
 * @param endNanos the end, of {@link System#nanoTime}
 * @param abandoned whether nobody wants the node any more
 */
record Deadline(long endNanos, BooleanSupplier abandoned) {

  static Deadline in(Duration limit, BooleanSupplier abandoned) {
    return new Deadline(System.nanoTime() + limit.toNanos(), abandoned);
  }

  /**
   * Whether there is no time left.
   *
   * @throws ProviderException if nobody wants the node any more
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
   * For a call of which an attempt may take this long. One that has begun continues past the end,
   * which is noticed, and explained, between calls.
   */
  Limits limits(Duration attempt) {
    return new Limits(attempt, left(), abandoned);
  }
}
