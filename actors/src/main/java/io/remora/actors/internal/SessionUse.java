// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.core.ReplayQueue;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongSupplier;

/**
 * When the session of a {@link BatchMailbox} was used last, and who wants to know of its next use.
 * Only work is use: batches that only free things are not.
 */
final class SessionUse {

  private final ReentrantLock lock;
  private final ReplayQueue<MailboxEntry> batches;
  private final LongSupplier clock;

  // Guarded by the lock.
  private Runnable onUse;
  private long lastNanos;

  SessionUse(MailboxSetup setup) {
    this.lock = setup.lock();
    this.batches = setup.batches();
    this.clock = setup.clock();
    this.lastNanos = clock.getAsLong();
  }

  /** Called with the lock. The session is used now. */
  void used(long now) {
    lastNanos = now;
  }

  /**
   * Called with the lock. Work is submitted.
   *
   * @return what the caller runs then, without the lock; null for nothing
   */
  Runnable submitted() {
    used(clock.getAsLong());
    Runnable action = onUse;
    onUse = null;
    return action;
  }

  /** Called with the lock. Batches go out again, so their use needs no action. */
  void resumed() {
    onUse = null;
    used(clock.getAsLong());
  }

  /** As {@link BatchMailbox#onUse}. */
  void onUse(Runnable action) {
    lock.lock();
    try {
      onUse = action == null || hasUnsentWork() ? null : action;
      if (action == null || onUse != null) {
        return;
      }
    } finally {
      lock.unlock();
    }
    action.run();
  }

  /** Whether unsent work is held. */
  boolean hasUnsentWork() {
    lock.lock();
    try {
      return batches.unsent().anyMatch(entry -> entry.work);
    } finally {
      lock.unlock();
    }
  }

  /** Called with the lock. How long ago the last use was; 0 while batches with work are here. */
  long idleNanos() {
    return hasUnsentWork() || batches.sent().anyMatch(entry -> entry.work)
        ? 0
        : clock.getAsLong() - lastNanos;
  }
}
