// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.time.Duration;
import java.util.concurrent.locks.Condition;
import java.util.function.BooleanSupplier;

/** Waits of recording threads. */
public final class Room {

  private Room() {}

  /**
   * Waits until there is room, even when the thread is interrupted: a missing batch would be a gap
   * in the sequence, which ends the session for every thread.
   *
   * @param changed a condition of a lock that this thread holds; signalled whenever there may be
   *     room
   * @return whether there is room
   */
  public static boolean await(Condition changed, BooleanSupplier isThere, Duration limit) {
    boolean interrupted = false;
    try {
      long end = System.nanoTime() + limit.toNanos();
      while (!isThere.getAsBoolean()) {
        long left = end - System.nanoTime();
        if (left <= 0) {
          return false;
        }
        try {
          long unused = changed.awaitNanos(left);
        } catch (InterruptedException e) {
          interrupted = true;
        }
      }
      return true;
    } finally {
      if (interrupted) {
        Thread.currentThread().interrupt();
      }
    }
  }
}
