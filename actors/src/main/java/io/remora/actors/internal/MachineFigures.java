// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static java.util.Objects.requireNonNull;

import io.remora.actors.MachineState;
import io.remora.runtime.SessionWaits;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.LongAdder;
import java.util.function.ToLongFunction;
import java.util.stream.Collectors;

/**
 * The counters of one machine. Its mailboxes do a few additions for each batch; its actor counts
 * the rest. The whole JVM can watch the figures of open machines. Thread-safe.
 */
public final class MachineFigures {

  /** Upper bounds, in seconds, of the buckets for round trips. */
  private static final double[] ROUND_TRIP_BOUNDS = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30
  };

  private static final long[] ROUND_TRIP_NANOS = nanos(ROUND_TRIP_BOUNDS);

  /** Storages of all sessions, as the node has acknowledged them. */
  public record Storages(long lazy, long realized, long offloaded, long bytes, long actors) {

    static final Storages NONE = new Storages(0, 0, 0, 0, 0);

    /** The number of live storages. */
    public long live() {
      return lazy + realized + offloaded;
    }
  }

  /** Receives events of machines that are opened and closed. */
  public interface Watcher {

    /** A machine was opened. */
    void opened(MachineFigures figures);

    /** A machine was closed. */
    void closed(MachineFigures figures);
  }

  private static final Object WATCH = new Object();
  private static final List<Watcher> WATCHERS = new ArrayList<>();
  private static final Set<MachineFigures> OPEN = ConcurrentHashMap.newKeySet();

  private final String machine;
  private final Set<BatchMailbox> mailboxes = ConcurrentHashMap.newKeySet();
  private final LongAdder batches = new LongAdder();
  private final LongAdder batchBytes = new LongAdder();
  private final LongAdder operations = new LongAdder();
  private final LongAdder executedBatches = new LongAdder();
  private final LongAdder executedOperations = new LongAdder();
  private final LongAdder failedOperations = new LongAdder();
  private final LongAdder valueBytes = new LongAdder();
  private final LongAdder roundTripNanos = new LongAdder();
  private final LongAdder[] roundTrips = adders(ROUND_TRIP_BOUNDS.length + 1);
  private final LongAdder pauses = new LongAdder();
  private final LongAdder redials = new LongAdder();
  private final LongAdder reconnections = new LongAdder();
  private final LongAdder recoveries = new LongAdder();
  private final LongAdder recoveryNanos = new LongAdder();
  private final LongAdder takeovers = new LongAdder();
  private final LongAdder moves = new LongAdder();
  private final LongAdder moveNanos = new LongAdder();
  private final LongAdder moveWaitNanos = new LongAdder();
  private final LongAdder checkpoints = new LongAdder();
  private final LongAdder checkpointNanos = new LongAdder();
  private final Object waits = new Object();
  private SessionWaits endedWaits =
      SessionWaits.NONE; // of sessions that have ended; guarded by waits
  private volatile long checkpointBytes;
  private volatile long checkpointReusedBytes;
  private volatile boolean standby;
  private volatile MachineState state = MachineState.STOPPED;
  private volatile Storages storages = Storages.NONE;

  /** Creates the figures of a machine that is not open. */
  public MachineFigures(String machine) {
    this.machine = requireNonNull(machine, "machine");
  }

  /** The machine's name. */
  public String machine() {
    return machine;
  }

  // Open machines -------------------------------------------------------------------------------

  /** Reports all open machines, and from now on changes, on the threads that make them. */
  public static void watch(Watcher watcher) {
    synchronized (WATCH) {
      WATCHERS.add(requireNonNull(watcher, "watcher"));
      OPEN.forEach(watcher::opened);
    }
  }

  /** The figures of all open machines of this JVM. */
  public static Set<MachineFigures> all() {
    return Set.copyOf(OPEN);
  }

  /** The names of all open machines of this JVM. */
  public static Set<String> names() {
    return OPEN.stream().map(MachineFigures::machine).collect(Collectors.toUnmodifiableSet());
  }

  /** How many machines of this JVM are in a state. */
  public static long machinesIn(MachineState state) {
    return OPEN.stream().filter(figures -> figures.state == state).count();
  }

  /** Sets the machine's state. Stopped machines are not counted. */
  public void become(MachineState newState) {
    MachineState old = state;
    state = newState;
    if (old == MachineState.PAUSING && newState == MachineState.PAUSED) {
      pauses.increment();
    } else if (old == MachineState.RECONNECTING && newState == MachineState.READY) {
      reconnections.increment();
    }
    setOpen(newState != MachineState.STOPPED);
  }

  /** The machine's actor has ended. */
  public void close() {
    setOpen(false);
  }

  private void setOpen(boolean open) {
    synchronized (WATCH) {
      if (open && OPEN.add(this)) {
        WATCHERS.forEach(watcher -> watcher.opened(this));
      } else if (!open && OPEN.remove(this)) {
        WATCHERS.forEach(watcher -> watcher.closed(this));
      }
    }
  }

  // What is counted -----------------------------------------------------------------------------

  void add(BatchMailbox mailbox) {
    mailboxes.add(mailbox);
  }

  void remove(BatchMailbox mailbox) {
    synchronized (waits) {
      if (mailboxes.remove(mailbox)) {
        endedWaits = endedWaits.plus(mailbox.waited());
      }
    }
  }

  void submitted(long bytes, long recorded) {
    batches.increment();
    batchBytes.add(bytes);
    operations.add(recorded);
  }

  void submittedDirectly(long count, long bytes, long recorded) {
    batches.add(count);
    batchBytes.add(bytes);
    operations.add(recorded);
  }

  /** Counts batches whose round trips were not seen here. */
  void executedDirectly(long count, long recorded) {
    executedBatches.add(count);
    executedOperations.add(recorded);
  }

  void acknowledged(long recorded, long nanos) {
    executedBatches.increment();
    executedOperations.add(recorded);
    roundTripNanos.add(nanos);
    int i = 0;
    while (i < ROUND_TRIP_NANOS.length && nanos > ROUND_TRIP_NANOS[i]) {
      i++;
    }
    roundTrips[i].increment();
  }

  /** Counts operations that failed on the node. */
  public void failed(int count) {
    failedOperations.add(count);
  }

  /** Counts received bytes of a value that was too large for its report. */
  public void received(long bytes) {
    valueBytes.add(bytes);
  }

  /** Counts a re-established link and the attempts that it took. */
  public void redialled(int attempts) {
    redials.add(attempts);
  }

  /**
   * Counts a checkpoint of a session.
   *
   * @param bytes of its file
   * @param reused bytes of the session that were in files of earlier checkpoints
   * @param took the time from its request to the node's answer
   */
  public void checkpointed(long bytes, long reused, Duration took) {
    checkpoints.increment();
    checkpointNanos.add(took.toNanos());
    checkpointBytes = bytes;
    checkpointReusedBytes = reused;
  }

  /**
   * Counts a recovery from the loss of a node and its time.
   *
   * @param byStandby whether the machine has continued on its standby
   */
  public void recovered(Duration took, boolean byStandby) {
    recoveries.increment();
    recoveryNanos.add(took.toNanos());
    if (byStandby) {
      takeovers.increment();
    }
  }

  /** Sets whether a standby follows all sessions. */
  public void standby(boolean follows) {
    standby = follows;
  }

  /**
   * Counts a move to another node.
   *
   * @param took the time from its request to the first batch on the other node
   * @param waited the part of it in which batches waited
   */
  public void moved(Duration took, Duration waited) {
    moves.increment();
    moveNanos.add(took.toNanos());
    moveWaitNanos.add(waited.toNanos());
  }

  /** Sets the figures of the storages, from the machine's actor. */
  public void setStorages(Storages counted) {
    storages = counted;
  }

  // What is asked -------------------------------------------------------------------------------

  /** Open sessions. */
  public long sessions() {
    return mailboxes.size();
  }

  /** Batches submitted. */
  public long batches() {
    return batches.sum();
  }

  /** Their bytes. */
  public long batchBytes() {
    return batchBytes.sum();
  }

  /** Operations in them, as far as programs report them. */
  public long operations() {
    return operations.sum();
  }

  /** Batches executed. */
  public long executedBatches() {
    return executedBatches.sum();
  }

  /** Operations in them, including those that failed. */
  public long executedOperations() {
    return executedOperations.sum();
  }

  /** Operations that failed on the node. */
  public long failedOperations() {
    return failedOperations.sum();
  }

  /** Bytes of values that came in chunks. */
  public long valueBytes() {
    return valueBytes.sum();
  }

  /**
   * Batches whose round trips were measured: those that programs do not send to the node directly.
   */
  public long measuredRoundTrips() {
    return Arrays.stream(roundTrips()).sum();
  }

  /** The sum over these batches of the time from sending to acknowledgement. */
  public long roundTripNanos() {
    return roundTripNanos.sum();
  }

  /** The upper bounds of the buckets for round trips, in seconds, in ascending order. */
  public static double[] roundTripBounds() {
    return ROUND_TRIP_BOUNDS.clone();
  }

  /** The round trips in each bucket. The last bucket has those above all bounds. */
  public long[] roundTrips() {
    return Arrays.stream(roundTrips).mapToLong(LongAdder::sum).toArray();
  }

  /** Times the machine was paused. */
  public long pauses() {
    return pauses.sum();
  }

  /** Attempts that it took to re-establish broken links. */
  public long redials() {
    return redials.sum();
  }

  /** Times a broken link was re-established. */
  public long reconnections() {
    return reconnections.sum();
  }

  /** Times the machine recovered from the loss of its node. */
  public long recoveries() {
    return recoveries.sum();
  }

  /** The sum of the times that recoveries took. */
  public double recoverySeconds() {
    return recoveryNanos.sum() * 1e-9;
  }

  /** Those of them for which the machine has continued on its standby. */
  public long takeovers() {
    return takeovers.sum();
  }

  /** 1 if a standby follows all sessions, else 0. */
  public long standby() {
    return standby ? 1 : 0;
  }

  /** Batches that the standby has still to execute, of all that the node has executed. */
  public long standbyBehind() {
    return sum(mailbox -> mailbox.recovery().standbyBehind());
  }

  /** Times the machine moved to another node. */
  public long moves() {
    return moves.sum();
  }

  /** The sum of the times that moves took. */
  public double moveSeconds() {
    return moveNanos.sum() * 1e-9;
  }

  /** The part of {@link #moveSeconds} in which batches waited. */
  public double moveWaitSeconds() {
    return moveWaitNanos.sum() * 1e-9;
  }

  /** Checkpoints of sessions. */
  public long checkpoints() {
    return checkpoints.sum();
  }

  /** The sum of the times from a checkpoint's request to its end. */
  public double checkpointSeconds() {
    return checkpointNanos.sum() * 1e-9;
  }

  /** Bytes that the last checkpoint has written. */
  public long checkpointBytes() {
    return checkpointBytes;
  }

  /** Bytes of the session that the last checkpoint did not write, since earlier ones have them. */
  public long checkpointReusedBytes() {
    return checkpointReusedBytes;
  }

  /** Bytes of executed batches that are kept for recovery. */
  public long keptBytes() {
    return sum(mailbox -> mailbox.recovery().bytes());
  }

  /** Those of them that are on disk. */
  public long keptDiskBytes() {
    return sum(mailbox -> mailbox.recovery().diskBytes());
  }

  /** Batches that wait for the line. */
  public long waitingBatches() {
    return sum(mailbox -> mailbox.position().unsent());
  }

  /** Their bytes. */
  public long waitingBytes() {
    return sum(mailbox -> mailbox.position().unsentBytes());
  }

  /** Batches submitted and not acknowledged. */
  public long unacknowledgedBatches() {
    return sum(mailbox -> mailbox.position().unacknowledged());
  }

  /** Their bytes. */
  public long unacknowledgedBytes() {
    return sum(mailbox -> mailbox.position().unacknowledgedBytes());
  }

  /** How long the programs have waited, those of ended sessions included. */
  public SessionWaits waited() {
    synchronized (waits) {
      SessionWaits all = endedWaits;
      for (BatchMailbox mailbox : mailboxes) {
        all = all.plus(mailbox.waited());
      }
      return all;
    }
  }

  /** The storages. */
  public Storages storages() {
    return storages;
  }

  /**
   * The figures by the names of {@code docs/operations.md}.
   *
   * @param waited of {@link #waited}
   */
  public SortedMap<String, Double> values(SessionWaits waited) {
    Storages counted = storages;
    SortedMap<String, Double> values = new TreeMap<>();
    values.put("sessions", (double) sessions());
    values.put("batches", (double) batches());
    values.put("batch.bytes", (double) batchBytes());
    values.put("batches.executed", (double) executedBatches());
    values.put("batches.waiting", (double) waitingBatches());
    values.put("batches.waiting.bytes", (double) waitingBytes());
    values.put("batches.in.flight", (double) unacknowledgedBatches());
    values.put("in.flight.bytes", (double) unacknowledgedBytes());
    values.put("operations", (double) operations());
    values.put("operations.executed", (double) executedOperations());
    values.put("operations.failed", (double) failedOperations());
    values.put("value.bytes", (double) valueBytes());
    long measured = measuredRoundTrips();
    values.put("round.trips", (double) measured);
    values.put("round.trip.seconds", roundTripNanos() * 1e-9 / Math.max(1, measured));
    values.put("storages", (double) counted.live());
    values.put("storages.lazy", (double) counted.lazy());
    values.put("storages.realized", (double) counted.realized());
    values.put("storages.offloaded", (double) counted.offloaded());
    values.put("storage.bytes", (double) counted.bytes());
    values.put("storage.actors", (double) counted.actors());
    values.put("pauses", (double) pauses());
    values.put("redials", (double) redials());
    values.put("reconnections", (double) reconnections());
    values.put("recoveries", (double) recoveries());
    values.put("recovery.seconds", recoverySeconds());
    values.put("takeovers", (double) takeovers());
    values.put("standby", (double) standby());
    values.put("standby.behind", (double) standbyBehind());
    values.put("moves", (double) moves());
    values.put("move.seconds", moveSeconds());
    values.put("move.wait.seconds", moveWaitSeconds());
    values.put("checkpoints", (double) checkpoints());
    values.put("checkpoint.seconds", checkpointSeconds());
    values.put("checkpoint.bytes", (double) checkpointBytes());
    values.put("checkpoint.reused.bytes", (double) checkpointReusedBytes());
    values.put("recovery.log.bytes", (double) keptBytes());
    values.put("recovery.log.disk.bytes", (double) keptDiskBytes());
    waited
        .causes()
        .forEach(
            (cause, sum) -> {
              String name = "waits." + cause.name().toLowerCase(Locale.ROOT);
              values.put(name + ".count", (double) sum.count());
              values.put(name + ".seconds", sum.seconds());
            });
    return values;
  }

  private long sum(ToLongFunction<BatchMailbox> figure) {
    return mailboxes.stream().mapToLong(figure).sum();
  }

  private static long[] nanos(double[] seconds) {
    long[] nanos = new long[seconds.length];
    for (int i = 0; i < nanos.length; i++) {
      nanos[i] = Math.round(seconds[i] * TimeUnit.SECONDS.toNanos(1));
    }
    return nanos;
  }

  private static LongAdder[] adders(int count) {
    LongAdder[] adders = new LongAdder[count];
    for (int i = 0; i < count; i++) {
      adders[i] = new LongAdder();
    }
    return adders;
  }
}
