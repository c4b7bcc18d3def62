// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.time.Duration;
import java.util.concurrent.TimeUnit;
import java.util.function.LongConsumer;
import java.util.function.LongSupplier;

/**
 * Asks the JVM to collect garbage when what a program holds on a machine has grown much, for the
 * collector does not see how large remote tensors are; see {@code remora.memory} in {@code
 * reference.conf}. What survives a collection is what the next growth counts from, so that a
 * program whose tensors are all in use is soon left alone. Called by one thread at a time.
 */
final class CollectionHint {
  /** JavaCPP frees what was collected on a thread of its own; how long to wait for it. */
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
   * @param liveBytes what the program holds on the machine
   * @param callAgainAt told from how many live bytes on {@link #check} is to be called
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

  /** Collects if it is time to, and waits until what was collected is freed. */
  void check() {
    if (liveBytes.getAsLong() < next) {
      return;
    }
    try {
      TimeUnit.NANOSECONDS.sleep(lastNanos + intervalNanos - System.nanoTime());
      collect.run();
      survived(settled());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt(); // only the recording counts, and it continues
    }
    lastNanos = System.nanoTime();
  }

  /** The bytes that are live when no more are being freed. */
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
