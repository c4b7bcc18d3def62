// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.actor.Cancellable;
import akka.actor.typed.ActorSystem;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.SaveProgress;
import java.time.Duration;
import java.util.concurrent.atomic.LongAdder;
import java.util.function.LongSupplier;

/**
 * Tells the machine, at intervals, how much of a session is saved, until it is closed. Thread-safe.
 */
final class SaveReports implements AutoCloseable {

  private static final Duration INTERVAL = Duration.ofMillis(250);

  private final String pause;
  private final long total;
  private final SessionOutbox outbox;
  private final ActorSystem<?> system;
  private final LongAdder taken = new LongAdder();
  private volatile LongSupplier done = taken::sum;
  private Cancellable timer;
  private boolean closed;

  /**
   * @param pause the name of the pause or the checkpoint
   * @param total bytes of the session
   */
  SaveReports(String pause, long total, SessionOutbox outbox, ActorSystem<?> system) {
    this.pause = pause;
    this.total = total;
    this.outbox = outbox;
    this.system = system;
    tellLater();
  }

  private synchronized void tellLater() {
    timer = system.scheduler().scheduleOnce(INTERVAL, this::tell, system.executionContext());
  }

  private synchronized void tell() {
    if (!closed) {
      outbox.send(
          FrameType.SAVE_PROGRESS,
          SaveProgress.newBuilder()
              .setPause(pause)
              .setDone(done.getAsLong())
              .setTotal(total)
              .build());
      tellLater();
    }
  }

  /** Notes that so many bytes more are saved. */
  void saved(long bytes) {
    taken.add(bytes);
  }

  /** The bytes that are saved are known in another way. */
  void measure(LongSupplier bytes) {
    done = bytes;
  }

  /** Nothing is told any more when this returns. */
  @Override
  public synchronized void close() {
    closed = true;
    timer.cancel();
  }
}
