// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.actors.RecoverySettings;
import java.io.IOException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.locks.ReentrantLock;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Where the batches are that a {@link RecoveryLog} keeps: in memory, and from half of {@code
 * remora.recovery.log-bytes} on, the oldest on disk. It writes them there on a thread of its own.
 * If the disk takes none, they stay in memory. Thread-safe.
 */
final class RecoveryMemory {

  private static final Logger log = LoggerFactory.getLogger(RecoveryMemory.class);

  /** Writes the batches of all sessions of this JVM to disk. */
  private static final Executor SPILLER =
      Executors.newSingleThreadExecutor(
          task -> {
            Thread thread = new Thread(task, "remora-recovery-log");
            thread.setDaemon(true);
            return thread;
          });

  private final MailboxSetup setup;
  private final RecoverySettings settings;
  private final ReentrantLock lock;
  private final BatchFile file; // null if all batches stay in memory

  // Guarded by the lock.
  private final ArrayDeque<MailboxEntry> inMemory = new ArrayDeque<>();
  private long memoryBytes;
  private long diskBytes;
  private boolean spilling;
  private boolean diskFailed;
  private boolean toldOfDisk;
  private boolean toldOfLimit;

  /**
   * @param keeps whether any batches are kept
   */
  RecoveryMemory(MailboxSetup setup, RecoverySettings settings, boolean keeps) {
    this.setup = setup;
    this.settings = settings;
    this.lock = setup.lock();
    this.file =
        keeps && settings.logDiskBytes() > 0 ? new BatchFile(settings.logDirectory()) : null;
  }

  /** Runs something that must not run with the lock. */
  static void later(Runnable task) {
    SPILLER.execute(task);
  }

  /** Called with the lock. Bytes of the kept batches that are in memory. */
  long memoryBytes() {
    return file == null ? setup.batches().keptBytes() : memoryBytes;
  }

  /** Bytes of the kept batches that are on disk. */
  long diskBytes() {
    lock.lock();
    try {
      return diskBytes;
    } finally {
      lock.unlock();
    }
  }

  /** Called with the lock. Counts a batch in memory, and has the oldest ones written to disk. */
  void keep(MailboxEntry entry) {
    if (file == null || entry.counted || entry.place != null) {
      return;
    }
    entry.counted = true;
    memoryBytes += entry.load;
    inMemory.addLast(entry);
    startSpilling();
  }

  /** Called with the lock, also when the writer has finished with batches that may go to disk. */
  void startSpilling() {
    if (!spilling && mustSpill()) {
      spilling = true;
      SPILLER.execute(this::spill);
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
      setup.room().changed();
    } finally {
      lock.unlock();
    }
    entries.forEach(MailboxEntry::drop);
    places.forEach(place -> file.release(place));
  }

  /** Gives everything up. */
  void close(List<MailboxEntry> entries) {
    drop(entries);
    if (file != null) {
      SPILLER.execute(file::close); // behind the writing of a batch
    }
  }

  // To the disk ---------------------------------------------------------------------------------

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
          setup.room().changed();
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
            setup.machine(),
            setup.session(),
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
        if (entry.withWriter) { // the writer starts this again
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
          setup.machine(),
          setup.session(),
          settings.logDirectory(),
          settings.logBytes());
    }
    if (!toldOfLimit && diskBytes > settings.logDiskBytes() / 10 * 8) {
      toldOfLimit = true;
      log.warn(
          "Machine {}: the batches of session {} have taken 80 % of remora.recovery.log-disk-bytes"
              + " = {}; at the limit the program waits for a checkpoint",
          setup.machine(), setup.session(), settings.logDiskBytes());
    }
  }
}
