// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.time.Duration;
import java.util.concurrent.TimeUnit;
import java.util.function.LongConsumer;
import java.util.function.LongSupplier;

/**
 * Asks the JVM to collect garbage when the remote memory of a program has grown a lot, since the
 * collector does not see the size of remote tensors; see {@code remora.memory} in {@code
 * reference.conf}. Growth is counted from what survives a collection, so a program whose tensors
 * are all in use soon sees no further collections. Called by one thread at a time.
 */
final class CollectionHint {
  /** How long to wait for JavaCPP, which frees collected tensors on a thread of its own. */
  private static final Duration SETTLE = Duration.ofMillis(500);

  private static final Duration LOOK_AFTER = Duration.ofMillis(5);

  private final long growth;
  private final long intervalNanos;
  private final LongSupplier liveBytes;
  private final LongConsumer callAgainAt;
  private final Runnable collect;
  private long next = Long.MAX_VALUE;
  private long lastNanos;

  /**
   * @param liveBytes the number of bytes that the program holds on the machine
   * @param callAgainAt receives the number of live bytes at which to call {@link #check} again
   * @param collect collects garbage
   */
  CollectionHint(
      SessionSettings settings,
      LongSupplier liveBytes,
      LongConsumer callAgainAt,
      Runnable collect) {
    this.growth = settings.collectGrowth();
    this.intervalNanos = settings.collectInterval().toNanos();
    this.liveBytes = liveBytes;
    this.callAgainAt = callAgainAt;
    this.collect = collect;
    this.lastNanos = System.nanoTime() - intervalNanos;
    if (growth > 0) {
      survived(0);
    }
  }

  private void survived(long bytes) {
    next = bytes + Math.max(growth, bytes / 4);
    callAgainAt.accept(next);
  }

  /** Collects if it is time to, and waits until the collected tensors are freed. */
  void check() {
    if (liveBytes.getAsLong() < next) {
      return;
    }
    try {
      TimeUnit.NANOSECONDS.sleep(lastNanos + intervalNanos - System.nanoTime());
      collect.run();
      survived(settled());
    } catch (InterruptedException e) {
      Thread.currentThread()
          .interrupt(); // the interrupt only shortens the wait; recording continues
    }
    lastNanos = System.nanoTime();
  }

  /** The number of live bytes once it no longer falls. */
  private long settled() throws InterruptedException {
    long end = System.nanoTime() + SETTLE.toNanos();
    long live = liveBytes.getAsLong();
    while (System.nanoTime() < end) {
      TimeUnit.NANOSECONDS.sleep(LOOK_AFTER.toNanos());
      long now = liveBytes.getAsLong();
      if (now >= live) {
        return now;
      }
      live = now;
    }
    return live;
  }
}
