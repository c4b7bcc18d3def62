// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.core.WireFormat;
import io.remora.runtime.Batch;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.concurrent.locks.ReentrantLock;

/**
 * A batch in a {@link BatchMailbox}. Its memory is given back once, when the program, the writer
 * and recovery are through with it.
 */
final class MailboxEntry implements BatchMailbox.Acknowledged {

  /** A batch without records. */
  private static final ByteBuffer NOTHING =
      ByteBuffer.allocateDirect(2)
          .put((byte) WireFormat.BATCH_MAGIC)
          .put((byte) WireFormat.WIRE_VERSION)
          .flip()
          .asReadOnlyBuffer();

  final Batch batch;
  int size;
  final int load;
  final boolean work;

  private final ReentrantLock lock;

  // Guarded by the lock.
  long sentNanos;
  boolean withWriter;
  boolean kept;
  Answers answers;

  /** Counts as memory of the recovery log. */
  boolean counted;

  /** Is being written to disk, from its memory. */
  boolean spilling;

  /** How many mailboxes of standbys use its memory. */
  int lent;

  /** Where it is on disk; null if it is not. */
  BatchFile.Place place;

  private boolean isVoid;
  private boolean done;
  private boolean released;

  /**
   * @param lock the mailbox's
   */
  MailboxEntry(ReentrantLock lock, Batch batch) {
    this.lock = lock;
    this.batch = batch;
    this.size = batch.size();
    this.load = batch.load();
    this.work = BatchContents.hasWork(batch.bytes());
  }

  /** Whether the program has the batch's answers already. Call it with the lock. */
  boolean isExecutedAgain() {
    return answers != null;
  }

  /** The batch's bytes, from the disk if they are not in memory. Call it with the lock. */
  ByteBuffer bytes() throws IOException {
    if (isVoid) {
      return NOTHING.duplicate();
    }
    return released ? BatchFile.read(place) : batch.bytes();
  }

  /** The node is to execute nothing in its place. Call it with the lock. */
  void makeVoid() {
    isVoid = true;
    size = NOTHING.remaining();
  }

  @Override
  public Batch batch() {
    return batch;
  }

  @Override
  public long sentNanos() {
    return sentNanos; // no longer changes
  }

  @Override
  public void release() {
    lock.lock();
    try {
      done = true;
    } finally {
      lock.unlock();
    }
    releaseIfDone();
  }

  /** Neither the program nor recovery needs the batch any more. */
  void drop() {
    lock.lock();
    try {
      kept = false;
    } finally {
      lock.unlock();
    }
    release();
  }

  /** A standby's mailbox no longer uses the memory. */
  void giveBack() {
    lock.lock();
    try {
      lent--;
    } finally {
      lock.unlock();
    }
    releaseIfDone();
  }

  void releaseIfDone() {
    boolean free;
    lock.lock();
    try {
      free = done && !withWriter && !spilling && lent == 0 && (!kept || place != null) && !released;
      released |= free;
    } finally {
      lock.unlock();
    }
    if (free) {
      batch.release();
    }
  }
}
