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

  // Guarded by the lock: what of the kept batches is in memory, and what on disk.
  private final BatchFile file;
  private final ArrayDeque<MailboxEntry> inMemory = new ArrayDeque<>();
  private long memoryBytes;
  private long diskBytes;
  private boolean spilling;
  private boolean diskFailed;
  private boolean toldOfDisk;
  private boolean toldOfLimit;

  RecoveryLog(
      long session,
      String machine,
      RecoverySettings settings,
      ReentrantLock lock,
      ReplayQueue<MailboxEntry> batches,
      Room room) {
    this.session = session;
    this.machine = machine;
    this.settings = requireNonNull(settings, "settings");
    this.lock = lock;
    this.batches = batches;
    this.room = room;
    this.values = new ReceivedValues(settings.isOn());
    this.file = settings.logDiskBytes() > 0 ? new BatchFile(settings.logDirectory()) : null;
    if (settings.isOn()) {
      batches.keepAcknowledged();
    }
  }

  /** Whether executed batches are kept, so that another node can execute them again. */
  public boolean isOn() {
    return settings.isOn();
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
    Runnable told = null;
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
    } finally {
      lock.unlock();
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
    long bytes = file == null ? batches.keptBytes() : memoryBytes;
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
            "Machine {}: the batches of session {} cannot be kept on disk in {} (remora.recovery.log-directory), so the program may wait for checkpoints: {}",
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
          "Machine {}: batches of session {} since its last checkpoint go to disk, in {}, since they take half of remora.recovery.log-bytes = {}",
          machine,
          session,
          settings.logDirectory(),
          settings.logBytes());
    }
    if (!toldOfLimit && diskBytes > settings.logDiskBytes() / 10 * 8) {
      toldOfLimit = true;
      log.warn(
          "Machine {}: the batches of session {} have taken 80 % of remora.recovery.log-disk-bytes = {}; at the limit the program waits for a checkpoint",
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

  /** Gives up the kept batches up to this one: they are part of a checkpoint. */
  public void forgetUpTo(long sequence) {
    List<MailboxEntry> forgotten;
    lock.lock();
    try {
      forgotten = batches.forgetUpTo(sequence);
      unrepeatable.headMap(sequence, true).clear();
      room.changed();
    } finally {
      lock.unlock();
    }
    drop(forgotten);
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
