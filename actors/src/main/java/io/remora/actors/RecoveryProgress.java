// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import io.remora.actors.internal.MachineFigures;
import io.remora.progress.Activities;
import io.remora.progress.Activity;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.function.LongSupplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * One recovery of a machine from the loss of its node, for the log and the figures. Thread-safe:
 * the threads that read the link report what was executed again.
 */
public final class RecoveryProgress {

  private static final Logger log = LoggerFactory.getLogger(MachineActor.class);

  private static final Duration REPORT_AFTER = Duration.ofSeconds(1);

  private final MachineFigures figures;
  private final LongSupplier clock;
  private final long startNanos;
  private final String cause;
  private int attempts;
  private long nodeNanos;
  private long restoredNanos;
  private long restoredBytes;
  private long batches;
  private boolean ready;
  private boolean finished;
  private boolean takenOver;
  private Activity replay;
  private final Map<Long, LongSupplier> replaying = new HashMap<>();

  /**
   * Begins now, by this clock.
   *
   * @param cause why the node was lost
   */
  public RecoveryProgress(MachineFigures figures, LongSupplier clock, String cause) {
    this.cause =
        String.valueOf(cause)
            .lines()
            .findFirst()
            .orElse("")
            .replaceFirst(", last lines of its log:$", "");
    this.figures = figures;
    this.clock = clock;
    this.startNanos = clock.getAsLong();
  }

  /** Why the node was lost, in one line. */
  String cause() {
    return cause;
  }

  /** How long ago the node was lost. */
  public Duration elapsed() {
    return Duration.ofNanos(clock.getAsLong() - startNanos);
  }

  /** Counts an attempt to get another node; returns its number, from 1. */
  public synchronized int attempt() {
    return ++attempts;
  }

  /** Another node is connected. */
  public synchronized void connected() {
    nodeNanos = clock.getAsLong();
    restoredBytes = 0;
    batches = 0;
    takenOver = false;
    replaying.clear();
  }

  /** The standby continues a session. */
  synchronized void takesOver() {
    takenOver = true;
  }

  /** A session is being restored, and will execute so many batches again; {@code left} of them. */
  synchronized void restoring(long session, long bytes, long again, LongSupplier left) {
    restoredBytes += bytes;
    batches += again;
    if (again > 0) {
      replaying.put(session, left);
    }
  }

  /** The sessions take batches. */
  public void restored() {
    synchronized (this) {
      restoredNanos = clock.getAsLong();
      ready = true;
      if (replay == null) {
        replay = Activities.begin(figures.machine(), "replay", "batches", this::measure);
      }
    }
    finishWhenDone();
  }

  /** A session has executed all its batches again, or has ended. */
  void replayed(long session) {
    synchronized (this) {
      replaying.remove(session);
    }
    finishWhenDone();
  }

  /** Another loss of the node, or the machine's end, has ended the recovery. */
  synchronized void abandon() {
    if (replay != null) {
      replay.close();
    }
  }

  private synchronized long left() {
    return replaying.values().stream().mapToLong(LongSupplier::getAsLong).sum();
  }

  private synchronized void measure(Activity activity) {
    activity.set(batches - left(), batches);
  }

  /** Writes to the log how far it is, if the batches take longer than a moment. */
  void report() {
    long left;
    synchronized (this) {
      if (!ready || finished || clock.getAsLong() - restoredNanos < REPORT_AFTER.toNanos()) {
        return;
      }
      left = left();
    }
    log.info(
        "Machine {} recovers: {} of {} batch(es) are executed again",
        figures.machine(),
        batches - left,
        batches);
  }

  private void finishWhenDone() {
    synchronized (this) {
      if (!ready || finished || !replaying.isEmpty()) {
        return;
      }
      finished = true;
      replay.close();
    }
    figures.recovered(elapsed(), takenOver);
    if (takenOver) {
      log.info(
          "Machine {} continues on its standby after {} ms: {} batch(es) that the standby had not executed were executed in {} ms",
          figures.machine(),
          elapsed().toMillis(),
          batches,
          millis(clock.getAsLong() - restoredNanos));
      return;
    }
    log.info(
        "Machine {} is recovered after {} ms: another node after {} ms and {} attempt(s), {} bytes"
            + " restored in {} ms, {} batch(es) executed again in {} ms",
        figures.machine(),
        elapsed().toMillis(),
        millis(nodeNanos - startNanos),
        Math.max(1, attempts),
        restoredBytes,
        millis(restoredNanos - nodeNanos),
        batches,
        millis(clock.getAsLong() - restoredNanos));
  }

  private static long millis(long nanos) {
    return nanos / 1_000_000;
  }
}
