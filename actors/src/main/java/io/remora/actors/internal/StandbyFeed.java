// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.Batch;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.util.ArrayDeque;
import java.util.List;
import java.util.function.LongConsumer;

/**
 * The way of one session's batches to the machine's standby, a second node. Each batch that the
 * first node has executed goes to a mailbox of the standby, in order, and its answers are compared
 * with what the program has got. The batches are not copied: both mailboxes use their memory.
 *
 * <p>When the first node is lost, the program's mailbox takes the place of the standby's, and
 * continues after the last batch that the standby has executed. Thread-safe.
 */
public final class StandbyFeed {

  private final BatchMailbox program;
  private final BatchMailbox mailbox;
  private final Runnable changed;
  private final long goal;

  // Guarded by the lock of the program's mailbox.
  private final ArrayDeque<MailboxEntry> waiting = new ArrayDeque<>();
  private long executed;
  private long last;
  private boolean feeding;
  private boolean ended;
  private String stopped = "";
  private LongConsumer onTakenOver;
  private Runnable onReplayed;

  private StandbyFeed(BatchMailbox program, long after, Runnable changed) {
    this.program = program;
    this.changed = requireNonNull(changed, "changed");
    this.executed = after;
    this.last = after;
    this.goal = program.recovery().lastDelivered();
    this.mailbox = program.ofStandby(after, this::answered);
  }

  /**
   * Begins to feed a standby.
   *
   * @param after the last batch that is part of what the standby restores
   * @param changed runs, on any thread, when the standby has caught up and when the feed has
   *     stopped
   * @return null if the batches after it are not kept any more
   */
  public static StandbyFeed start(BatchMailbox program, long after, Runnable changed) {
    StandbyFeed feed = new StandbyFeed(program, after, changed);
    program.lock().lock();
    try {
      List<MailboxEntry> before = program.recovery().startFeed(feed, after);
      if (before == null) {
        return null;
      }
      before.forEach(feed::executed);
    } finally {
      program.lock().unlock();
    }
    feed.feed();
    return feed;
  }

  /** The session's number. */
  public long session() {
    return program.session();
  }

  /** The mailbox for the standby's link. */
  public BatchMailbox mailbox() {
    return mailbox;
  }

  /** The mailbox of the session's program. */
  public BatchMailbox program() {
    return program;
  }

  // Feeding -------------------------------------------------------------------------------------

  /** Called with the lock of the program's mailbox: the first node has executed a batch. */
  void executed(MailboxEntry entry) {
    if (ended || !stopped.isEmpty() || entry.batch.sequence() != last + 1) {
      return; // executed again by the first node
    }
    last = entry.batch.sequence();
    entry
        .answers
        .unrepeatable()
        .ifPresentOrElse(
            what -> stopWith("it cannot repeat what the session did: " + what),
            () -> waiting.addLast(entry));
  }

  /** Sends what waits, as far as there is room on the way to the standby. */
  void feed() {
    String failure = "";
    program.lock().lock();
    try {
      if (feeding) {
        return;
      }
      feeding = true;
    } finally {
      program.lock().unlock();
    }
    for (MailboxEntry entry = next(); entry != null; entry = next()) {
      try {
        mailbox.submitAgain(lent(entry), entry.answers);
      } catch (IOException e) {
        failure = "batch %d cannot be read from the disk: %s".formatted(entry.batch.sequence(), e);
      } catch (RemoraException e) {
        failure = "its session has ended: " + e.getMessage();
      }
      if (!failure.isEmpty()) {
        stop(failure);
      }
    }
  }

  private MailboxEntry next() {
    program.lock().lock();
    try {
      MailboxEntry entry = waiting.peekFirst();
      feeding = entry != null && mailbox.hasRoom(entry.size);
      return feeding ? waiting.pollFirst() : null;
    } finally {
      program.lock().unlock();
    }
  }

  private Batch lent(MailboxEntry entry) throws IOException {
    program.lock().lock();
    try {
      Batch lent =
          new Batch(
              entry.batch.sequence(),
              entry.bytes(),
              List.of(),
              new long[0],
              entry.batch.operations(),
              entry::giveBack);
      entry.lent++;
      return lent;
    } finally {
      program.lock().unlock();
    }
  }

  /** The standby has executed a batch, with the same answers. */
  private void answered() {
    boolean caughtUp;
    program.lock().lock();
    try {
      executed++;
      caughtUp = executed == goal;
    } finally {
      program.lock().unlock();
    }
    program.recovery().fed(this, false);
    if (caughtUp) {
      changed.run();
    }
    feed();
  }

  /** The last batch that the standby has executed. */
  public long executed() {
    program.lock().lock();
    try {
      return executed;
    } finally {
      program.lock().unlock();
    }
  }

  /** Whether the standby has executed what was executed when the feed began. */
  public boolean hasCaughtUp() {
    return executed() >= goal;
  }

  // The end -------------------------------------------------------------------------------------

  /**
   * Feeds no more: the standby must restore a later checkpoint. Only the first reason counts, and
   * none after {@link #onTakeOver}.
   */
  public void stop(String why) {
    program.lock().lock();
    try {
      if (ended || !stopped.isEmpty() || onTakenOver != null) {
        return;
      }
      stopWith(why);
    } finally {
      program.lock().unlock();
    }
    program.recovery().fed(this, true);
  }

  /** Called with the lock. */
  private void stopWith(String why) {
    stopped = why;
    waiting.clear();
    changed.run();
  }

  /** Why the feed has stopped; empty if it has not. */
  public String stopped() {
    program.lock().lock();
    try {
      return stopped;
    } finally {
      program.lock().unlock();
    }
  }

  /** Ends the feed, and with it the standby's mailbox. */
  public void end() {
    program.lock().lock();
    try {
      ended = true;
      waiting.clear();
    } finally {
      program.lock().unlock();
    }
    program.recovery().fed(this, true);
    mailbox.lose(
        new MachineStateException("session " + session() + " is not on its standby any more"));
  }

  /** Whether the standby's mailbox is not used any more. */
  public boolean hasEnded() {
    program.lock().lock();
    try {
      return ended;
    } finally {
      program.lock().unlock();
    }
  }

  // Taking over ---------------------------------------------------------------------------------

  /**
   * Sets what {@link #takeOver} reports.
   *
   * @param takenOver gets the number of batches that the program has the answers of and that the
   *     standby has not executed
   * @param replayed runs when it has executed them; not if there are none
   */
  public void onTakeOver(LongConsumer takenOver, Runnable replayed) {
    program.lock().lock();
    try {
      onTakenOver = takenOver;
      onReplayed = replayed;
    } finally {
      program.lock().unlock();
    }
  }

  /**
   * Puts the program's mailbox in the place of the standby's, whose link has no connection now.
   * Ends the feed.
   *
   * @return false if the feed was ended before
   * @throws NodeLostException if the standby has given another answer than the first node, or the
   *     feed has stopped
   */
  public boolean takeOver() {
    long again;
    program.lock().lock();
    try {
      if (ended) {
        return false;
      }
      if (mailbox.isLost() || !stopped.isEmpty()) {
        throw new NodeLostException(
            "the standby cannot continue session %d: %s"
                .formatted(
                    session(),
                    stopped.isEmpty() ? "it gave another answer than the lost node" : stopped));
      }
      BatchMailbox.Position at = mailbox.position();
      again = program.restart().rewindTo(at.acknowledged(), at.sent(), onReplayed);
    } finally {
      program.lock().unlock();
    }
    onTakenOver.accept(again);
    end();
    return true;
  }
}
