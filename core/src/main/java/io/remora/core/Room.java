// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.time.Duration;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.Lock;
import java.util.function.IntPredicate;

/**
 * Room for batches on their way to a node, and the wait for it by the threads that record. Its
 * state is guarded by a lock of its owner.
 *
 * <p>Thread-safe.
 */
public final class Room {

  private final Lock lock;
  private final Condition changed;
  private final IntPredicate fits;

  /**
   * Makes a room without waiting threads.
   *
   * @param lock guards what {@code fits} reads
   * @param fits whether a batch of this many bytes fits now; called with the lock held. True also
   *     where no batch is accepted any more, so that the caller learns the reason at once
   */
  public Room(Lock lock, IntPredicate fits) {
    this.lock = lock;
    this.changed = lock.newCondition();
    this.fits = fits;
  }

  /** Whether a batch of {@code bytes} fits now. */
  public boolean isThere(int bytes) {
    lock.lock();
    try {
      return fits.test(bytes);
    } finally {
      lock.unlock();
    }
  }

  /**
   * Waits until a batch of {@code bytes} fits, even when the thread is interrupted: a missing batch
   * would be a gap in the sequence, which ends the session for every thread. The thread is
   * interrupted again afterwards.
   *
   * @return whether there is room
   */
  public boolean await(int bytes, Duration limit) {
    boolean interrupted = false;
    lock.lock();
    try {
      long end = System.nanoTime() + limit.toNanos();
      while (!fits.test(bytes)) {
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
      lock.unlock();
      if (interrupted) {
        Thread.currentThread().interrupt();
      }
    }
  }

  /** Has waiting threads look again. The caller holds the lock. */
  public void changed() {
    changed.signalAll();
  }
}
