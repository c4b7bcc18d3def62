// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.time.Duration;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** One daemon thread that checks all connections of this JVM for silence. */
final class LinkWatch {

  private static final ScheduledThreadPoolExecutor TIMER = timer();

  private LinkWatch() {}

  /** Calls {@link SocketConnection#checkAlive} every {@code interval} until cancelled. */
  static ScheduledFuture<?> watch(SocketConnection connection, Duration interval) {
    long nanos = interval.toNanos();
    return TIMER.scheduleWithFixedDelay(
        new Check(connection, nanos), nanos, nanos, TimeUnit.NANOSECONDS);
  }

  static void after(Duration delay, Runnable action) {
    ScheduledFuture<?> unused = TIMER.schedule(action, delay.toNanos(), TimeUnit.NANOSECONDS);
  }

  private static ScheduledThreadPoolExecutor timer() {
    ScheduledThreadPoolExecutor timer =
        new ScheduledThreadPoolExecutor(
            1,
            task -> {
              Thread thread = new Thread(task, "remora-link-watch");
              thread.setDaemon(true);
              return thread;
            });
    timer.setRemoveOnCancelPolicy(true);
    return timer;
  }

  private static final class Check implements Runnable {

    private final SocketConnection connection;
    private final long intervalNanos;
    private long lastRunNanos = System.nanoTime();

    Check(SocketConnection connection, long intervalNanos) {
      this.connection = connection;
      this.intervalNanos = intervalNanos;
    }

    @Override
    public void run() {
      long now = System.nanoTime();
      long slept = now - lastRunNanos;
      lastRunNanos = now;
      // After this process itself was suspended or paused for long, data from the peer may wait
      // unread. Give the reader one interval to read it.
      if (slept < 3 * intervalNanos) {
        connection.checkAlive(now);
      }
    }
  }
}
