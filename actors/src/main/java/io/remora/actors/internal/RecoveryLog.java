// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static java.util.Objects.requireNonNull;

import io.remora.actors.RecoverySettings;
import io.remora.core.ReplayQueue;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Stream;

/**
 * What a {@link BatchMailbox} keeps so that another node can take the place of a lost one: the
 * batches that the node has executed since a checkpoint, in the mailbox's own queue, and what the
 * program has learned from them. Without recovery it keeps nothing. Thread-safe: the mailbox's lock
 * guards it.
 */
public final class RecoveryLog {

  private final MailboxSetup setup;
  private final RecoverySettings settings;
  private final ReentrantLock lock;
  private final ReplayQueue<MailboxEntry> batches;
  private final RecoveryMemory memory;
  private final ReceivedValues values;
  private final ReceivedValues valuesAgain = new ReceivedValues(true);

  // Of a standby's own log, which only compares: runs after each batch.
  private final Runnable onAnswered;

  // Guarded by the lock.
  private long delivered; // the last batch whose answers the program has
  private final NavigableMap<Long, String> unrepeatable = new TreeMap<>(); // what batches did
  private Runnable onReplayed; // when the lost node's batches are executed again
  private StandbyFeed feed; // null without a standby
  private long givenUp; // up to here only the standby needs batches
  private long standbyBytes; // of the batches that only it needs

  /**
   * @param onAnswered null; for a standby's mailbox, runs after each batch that has given the same
   *     answers as before. Such a log keeps nothing
   */
  RecoveryLog(MailboxSetup setup, RecoverySettings settings, Runnable onAnswered) {
    this.setup = setup;
    this.settings = requireNonNull(settings, "settings");
    this.lock = setup.lock();
    this.batches = setup.batches();
    this.onAnswered = onAnswered;
    this.values = new ReceivedValues(settings.replays());
    this.memory = new RecoveryMemory(setup, settings, keeps());
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
      memory.keep(entry);
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
                      .formatted(sequence, setup.session(), setup.machine(), how));
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
    long bytes = Math.max(0, memory.memoryBytes() - standbyBytes);
    return bytes == 0 || bytes + size <= settings.logBytes();
  }

  /** Called with the lock. The writer has finished with the memory of batches. */
  void written() {
    memory.startSpilling();
  }

  /** Bytes of the executed batches that are kept on disk. */
  public long diskBytes() {
    return memory.diskBytes();
  }

  /** Gives everything up. */
  void close(List<MailboxEntry> entries) {
    memory.close(entries);
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
      setup.room().changed();
    } finally {
      lock.unlock();
    }
    memory.drop(forgotten);
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
