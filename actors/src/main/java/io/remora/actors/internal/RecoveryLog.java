// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static java.util.Objects.requireNonNull;

import io.remora.actors.RecoverySettings;
import io.remora.core.ReplayQueue;
import io.remora.core.Room;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Stream;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What a {@link BatchMailbox} keeps so that another node can take the place of a lost one: the
 * batches that the node has executed since a checkpoint, in the mailbox's own queue, and what the
 * program has learned from them. Without recovery it keeps nothing. Thread-safe: the mailbox's lock
 * guards it.
 */
public final class RecoveryLog {

  private static final Logger log = LoggerFactory.getLogger(RecoveryLog.class);

  /** Writes the batches of all sessions of this JVM to disk. */
  private static final Executor SPILLER =
      Executors.newSingleThreadExecutor(
          task -> {
            Thread thread = new Thread(task, "remora-recovery-log");
            thread.setDaemon(true);
            return thread;
          });

  private final long session;
  private final String machine;
  private final RecoverySettings settings;
  private final ReentrantLock lock;
  private final ReplayQueue<MailboxEntry> batches;
  private final Room room;
  private final ReceivedValues values;
  private final ReceivedValues valuesAgain = new ReceivedValues(true);

  // Guarded by the lock: the last batch whose answers the program has, what the kept batches did
  // that cannot be repeated, and who waits until they are executed again.
  private long delivered;
  private final NavigableMap<Long, String> unrepeatable = new TreeMap<>();
  private Runnable onReplayed;

  // Guarded by the lock: the way to the standby, null without one; what was given up but for it.
  private StandbyFeed feed;
  private long givenUp;
  private long standbyBytes;

  // Of a standby's own log, which only compares: runs after each batch.
  private final Runnable onAnswered;

  // Guarded by the lock: what of the kept batches is in memory, and what on disk.
  private final BatchFile file;
  private final ArrayDeque<MailboxEntry> inMemory = new ArrayDeque<>();
  private long memoryBytes;
  private long diskBytes;
  private boolean spilling;
  private boolean diskFailed;
  private boolean toldOfDisk;
  private boolean toldOfLimit;

  /**
   * @param onAnswered null; for a standby's mailbox, runs after each batch that has given the same
   *     answers as before. Such a log keeps nothing
   */
  RecoveryLog(
      long session,
      String machine,
      RecoverySettings settings,
      ReentrantLock lock,
      ReplayQueue<MailboxEntry> batches,
      Room room,
      Runnable onAnswered) {
    this.onAnswered = onAnswered;
    this.session = session;
    this.machine = machine;
    this.settings = requireNonNull(settings, "settings");
    this.lock = lock;
    this.batches = batches;
    this.room = room;
    this.values = new ReceivedValues(settings.replays());
    this.file =
        keeps() && settings.logDiskBytes() > 0 ? new BatchFile(settings.logDirectory()) : null;
    if (keeps()) {
      batches.keepAcknowledged();
    } else if (onAnswered != null) {
      delivered = Long.MAX_VALUE; // its batches were executed before
    }
  }

  /** Whether executed batches stay here. */
  boolean keeps() {
    return isOn() && onAnswered == null;
  }

  /** Whether executed batches are kept, so that another node can execute them again. */
  public boolean isOn() {
    return settings.replays();
  }

  /** Whether another node takes the place of a lost one, so that all batches must come here. */
  boolean replacesNode() {
    return settings.isOn();
  }

  /** Forgets what has arrived of values whose batches are void. */
  void forgetArriving() {
    values.clear();
  }

  // What arrives --------------------------------------------------------------------------------

  /** The large values that are arriving for a batch. */
  public ReceivedValues values(long sequence) {
    return isExecutedAgain(sequence) ? valuesAgain : values;
  }

  /** Whether the program has the answers of this batch already. */
  public boolean isExecutedAgain(long sequence) {
    return isOn() && sequence <= lastDelivered();
  }

  /**
   * Notes what an acknowledged batch told, if executed batches are kept. For a batch that was
   * executed again this compares, and the program must not be told a second time.
   *
   * @return false if the batch was executed again
   * @throws ReplayDifference if it gave other answers than before
   */
  public boolean isNews(BatchMailbox.Acknowledged acknowledged, ByteBuffer report) {
    if (!isOn()) {
      return true;
    }
    MailboxEntry entry = (MailboxEntry) acknowledged;
    long sequence = entry.batch.sequence();
    Answers answers = Answers.of(report, values(sequence)::checksum);
    Runnable told = onAnswered;
    StandbyFeed following;
    Answers before;
    lock.lock();
    try {
      before = entry.answers;
      entry.answers = answers;
      answers.unrepeatable().ifPresent(what -> unrepeatable.put(sequence, what));
      if (before != null && sequence == delivered) {
        told = onReplayed;
        onReplayed = null;
      }
      delivered = Math.max(delivered, sequence);
      keep(entry);
      following = feed;
      if (following != null) {
        following.executed(entry);
      }
    } finally {
      lock.unlock();
    }
    if (following != null) {
      following.feed();
    }
    if (before == null) {
      return true;
    }
    before
        .difference(answers)
        .ifPresent(
            how -> {
              throw new ReplayDifference(
                  "batch %d of session %d on machine %s, executed again by another node, gave another answer: %s"
                      .formatted(sequence, session, machine, how));
            });
    if (told != null) {
      told.run();
    }
    return false;
  }

  // What is kept --------------------------------------------------------------------------------

  /** Called with the lock. Whether so many bytes more may be kept; else a checkpoint must come. */
  boolean fits(int size) {
    if (!isOn()) {
      return true;
    }
    // What only the standby needs does not make the program wait. It has a limit of its own.
    long bytes = Math.max(0, (file == null ? batches.keptBytes() : memoryBytes) - standbyBytes);
    return bytes == 0 || bytes + size <= settings.logBytes();
  }

  /** Called with the lock. Counts a batch in memory, and has the oldest ones written to disk. */
  private void keep(MailboxEntry entry) {
    if (file == null || entry.counted || entry.place != null) {
      return;
    }
    entry.counted = true;
    memoryBytes += entry.load;
    inMemory.addLast(entry);
    if (!spilling && mustSpill()) {
      spilling = true;
      SPILLER.execute(this::spill);
    }
  }

  /** Called with the lock. */
  private boolean mustSpill() {
    return memoryBytes > settings.logBytes() / 2
        && diskBytes < settings.logDiskBytes()
        && !diskFailed
        && !inMemory.isEmpty();
  }

  private void spill() {
    for (MailboxEntry entry = nextToSpill(); entry != null; entry = nextToSpill()) {
      BatchFile.Place place = null;
      IOException failure = null;
      try {
        place = file.write(entry.batch.bytes());
      } catch (IOException e) {
        failure = e;
      }
      lock.lock();
      try {
        entry.spilling = false;
        diskFailed |= failure != null;
        if (place != null && entry.kept) {
          entry.place = place;
          place = null;
          entry.counted = false;
          memoryBytes -= entry.load;
          diskBytes += entry.load;
          room.changed();
        }
      } finally {
        lock.unlock();
      }
      if (place != null) {
        file.release(place); // the batch was given up meanwhile
      }
      entry.releaseIfDone();
      if (failure != null) {
        log.warn(
            "Machine {}: the batches of session {} cannot be kept on disk in {}"
                + " (remora.recovery.log-directory), so the program may wait for checkpoints: {}",
            machine,
            session,
            settings.logDirectory(),
            failure.toString());
      }
    }
  }

  private MailboxEntry nextToSpill() {
    lock.lock();
    try {
      while (mustSpill()) {
        MailboxEntry entry = inMemory.pollFirst();
        if (!entry.kept || entry.place != null) {
          continue;
        }
        if (entry.withWriter) { // it is executed again, and kept again afterwards
          inMemory.addLast(entry);
          break;
        }
        tellOfDisk();
        entry.spilling = true;
        return entry;
      }
      spilling = false;
      return null;
    } finally {
      lock.unlock();
    }
  }

  /** Called with the lock. */
  private void tellOfDisk() {
    if (!toldOfDisk) {
      toldOfDisk = true;
      log.info(
          "Machine {}: batches of session {} since its last checkpoint go to disk, in {}, since"
              + " they take half of remora.recovery.log-bytes = {}",
          machine,
          session,
          settings.logDirectory(),
          settings.logBytes());
    }
    if (!toldOfLimit && diskBytes > settings.logDiskBytes() / 10 * 8) {
      toldOfLimit = true;
      log.warn(
          "Machine {}: the batches of session {} have taken 80 % of remora.recovery.log-disk-bytes"
              + " = {}; at the limit the program waits for a checkpoint",
          machine, session, settings.logDiskBytes());
    }
  }

  /** Bytes of the executed batches that are kept on disk. */
  public long diskBytes() {
    lock.lock();
    try {
      return diskBytes;
    } finally {
      lock.unlock();
    }
  }

  /** Gives batches up: they are part of a checkpoint, or the session has ended. */
  void drop(List<MailboxEntry> entries) {
    List<BatchFile.Place> places = new ArrayList<>();
    lock.lock();
    try {
      for (MailboxEntry entry : entries) {
        if (entry.counted) {
          entry.counted = false;
          memoryBytes -= entry.load;
        }
        if (entry.place != null) {
          diskBytes -= entry.load;
          places.add(entry.place);
        }
      }
      room.changed();
    } finally {
      lock.unlock();
    }
    entries.forEach(MailboxEntry::drop);
    places.forEach(place -> file.release(place));
  }

  /** Runs something that must not run with the lock. */
  void later(Runnable task) {
    SPILLER.execute(task);
  }

  /** Gives everything up. */
  void close(List<MailboxEntry> entries) {
    drop(entries);
    if (file != null) {
      SPILLER.execute(file::close); // behind the writing of a batch
    }
  }

  /** Bytes of the executed batches that are kept. */
  public long bytes() {
    lock.lock();
    try {
      return batches.keptBytes();
    } finally {
      lock.unlock();
    }
  }

  /** The same without those that only the standby needs. */
  public long recoveryBytes() {
    lock.lock();
    try {
      return batches.keptBytes() - standbyBytes;
    } finally {
      lock.unlock();
    }
  }

  /** The last batch whose answers the program has; 0 = none. */
  public long lastDelivered() {
    lock.lock();
    try {
      return delivered;
    } finally {
      lock.unlock();
    }
  }

  /** Whether a batch after this one was executed. */
  public boolean hasExecutedAfter(long sequence) {
    lock.lock();
    try {
      return batches.lastAcknowledged() > sequence;
    } finally {
      lock.unlock();
    }
  }

  /** What a batch after this one did that cannot be done again; empty if there is none. */
  public Optional<String> unrepeatableAfter(long sequence) {
    lock.lock();
    try {
      return Optional.ofNullable(unrepeatable.higherEntry(sequence)).map(Map.Entry::getValue);
    } finally {
      lock.unlock();
    }
  }

  /**
   * Gives up the kept batches up to this one: they are part of a checkpoint. Those that the standby
   * has not executed stay until it has. If they take more than half of the log, the standby stops.
   */
  public void forgetUpTo(long sequence) {
    List<MailboxEntry> forgotten;
    StandbyFeed slow;
    lock.lock();
    try {
      boolean more = sequence > givenUp;
      givenUp = Math.max(givenUp, sequence);
      unrepeatable.headMap(sequence, true).clear();
      forgotten = batches.forgetUpTo(feed == null ? givenUp : Math.min(givenUp, feed.executed()));
      standbyBytes =
          more
              ? load(batches.kept().takeWhile(entry -> entry.batch.sequence() <= sequence))
              : standbyBytes - load(forgotten.stream());
      slow = standbyBytes > settings.logBytes() / 2 ? feed : null;
      room.changed();
    } finally {
      lock.unlock();
    }
    drop(forgotten);
    if (slow != null) {
      slow.stop(
          "it is so far behind that its batches take half of remora.recovery.log-bytes = "
              + settings.logBytes());
    }
  }

  private static long load(Stream<MailboxEntry> entries) {
    return entries.mapToLong(entry -> entry.load).sum();
  }

  // The standby ---------------------------------------------------------------------------------

  /** How the session recovers. */
  RecoverySettings settings() {
    return settings;
  }

  /**
   * Called with the lock. From now on the feed gets each executed batch.
   *
   * @return the batches after this one that are executed; null if some are not here any more
   */
  List<MailboxEntry> startFeed(StandbyFeed started, long after) {
    if (after < batches.lastForgotten() || after > batches.lastAcknowledged()) {
      return null;
    }
    feed = started;
    return batches
        .kept()
        .filter(entry -> entry.batch.sequence() > after && entry.isExecutedAgain())
        .toList();
  }

  /** The feed needs nothing up to its latest batch any more, or nothing at all if it has ended. */
  void fed(StandbyFeed by, boolean ended) {
    boolean forget;
    lock.lock();
    try {
      if (feed != by) {
        return;
      }
      if (ended) {
        feed = null;
      }
      forget = standbyBytes > 0;
    } finally {
      lock.unlock();
    }
    if (forget) {
      forgetUpTo(0);
    }
  }

  /** By how many batches the standby is behind the program; 0 without one. */
  public long standbyBehind() {
    lock.lock();
    try {
      return feed == null ? 0 : Math.max(0, delivered - feed.executed());
    } finally {
      lock.unlock();
    }
  }

  // Executing it again --------------------------------------------------------------------------

  /**
   * Whether all batches after this one are here, so that a node that has executed it can follow.
   */
  public boolean reachesBackTo(long sequence) {
    lock.lock();
    try {
      return sequence >= batches.lastForgotten() && sequence <= batches.lastAcknowledged();
    } finally {
      lock.unlock();
    }
  }

  /**
   * Called with the lock, when the batches after this one are to be sent again.
   *
   * @return how many of them were executed before
   */
  long rewound(long sequence, Runnable replayed) {
    valuesAgain.clear();
    long again = Math.max(0, delivered - sequence);
    onReplayed = again == 0 ? null : replayed;
    return again;
  }

  /** How many batches another node has still to execute again. */
  public long left() {
    lock.lock();
    try {
      return Math.max(0, delivered - batches.lastAcknowledged());
    } finally {
      lock.unlock();
    }
  }
}
