// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.core.ReplayQueue;
import io.remora.runtime.RestoredException;
import io.remora.runtime.SessionListener;
import java.util.concurrent.locks.ReentrantLock;

/**
 * How the session of a {@link BatchMailbox} continues on another node, after the loss of the first:
 * which batches the other one gets. It either executes those after its checkpoint again, with the
 * same answers ({@link #rewindTo}), or the program goes back to the state that it restores ({@link
 * #giveUpBatches}). Thread-safe.
 */
public final class SessionRestart {

  private final MailboxSetup setup;
  private final ReentrantLock lock;
  private final ReplayQueue<MailboxEntry> batches;
  private final BatchSender sender;
  private final AttachedProgram program;
  private final RecoveryLog log;

  // Guarded by the lock.
  private boolean underWay;
  // How often another node has restored an earlier state, and whether the program's batches are
  // void because it has not begun to record from there.
  private long epoch;
  private boolean voids;

  SessionRestart(MailboxSetup setup, BatchSender sender, AttachedProgram program, RecoveryLog log) {
    this.setup = setup;
    this.lock = setup.lock();
    this.batches = setup.batches();
    this.sender = sender;
    this.program = program;
    this.log = log;
  }

  /** The node is lost, and the session will be recovered on another one. */
  void begin() {
    lock.lock();
    try {
      underWay = true;
    } finally {
      lock.unlock();
    }
  }

  /** Called with the lock. Whether another node has still to execute what the lost one had. */
  boolean isUnderWay() {
    return underWay;
  }

  // With the same answers -----------------------------------------------------------------------

  /**
   * Prepares for a node that has executed the batches up to this one: all later ones are sent to
   * it, on the next connection.
   *
   * @param replayed runs once, on any thread, when all batches that were executed before are
   *     executed again; not if there are none
   * @return how many batches will be executed again
   */
  public long rewindTo(long sequence, Runnable replayed) {
    lock.lock();
    try {
      batches.rewindTo(sequence);
      sender.release();
      setup.room().changed();
      long again =
          log.rewound(
              sequence,
              () -> {
                end();
                replayed.run();
              });
      underWay &= again > 0;
      return again;
    } finally {
      lock.unlock();
    }
  }

  /**
   * As {@link #rewindTo}, for a node to which batches were sent that it has not answered.
   *
   * @param sent the last of them
   */
  long rewindTo(long sequence, long sent, Runnable replayed) {
    lock.lock();
    try {
      long again = rewindTo(sequence, replayed);
      long now = setup.clock().getAsLong();
      while (batches.lastSent() < sent) {
        batches.send().sentNanos = now;
      }
      return again;
    } finally {
      lock.unlock();
    }
  }

  private void end() {
    lock.lock();
    try {
      underWay = false;
    } finally {
      lock.unlock();
    }
    program.tellHindrance();
  }

  // From an earlier state -----------------------------------------------------------------------

  /**
   * Prepares for a node that restores an earlier state: the batches that are not acknowledged are
   * void, and so are those that come until the program has begun to record from that state. Their
   * numbers stay, and the node gets empty batches in their places.
   *
   * @return the last batch that was acknowledged
   */
  public long giveUpBatches() {
    lock.lock();
    try {
      batches.replayAfter(batches.lastAcknowledged());
      batches.unsent().forEach(MailboxEntry::makeVoid);
      epoch++;
      voids = true;
      underWay = false; // nothing will be executed again
      sender.release();
      log.forgetArriving();
      setup.room().changed();
      return batches.lastAcknowledged();
    } finally {
      lock.unlock();
    }
  }

  /** Called with the lock. Makes a new batch void if the program has not heard of the state yet. */
  void admit(MailboxEntry entry) {
    if (!voids) {
      return;
    }
    if (BatchContents.restartEpoch(entry.batch.bytes()) == epoch) {
      voids = false;
    } else {
      entry.makeVoid();
    }
  }

  /**
   * Tells the program that the node has restored an earlier state, after {@link #giveUpBatches}.
   */
  public void tellRestored(RestoredException restored) {
    long number;
    lock.lock();
    try {
      number = epoch;
    } finally {
      lock.unlock();
    }
    SessionListener hearing = program.listener();
    if (hearing != null) {
      hearing.onRestored(number, restored);
    }
  }
}
