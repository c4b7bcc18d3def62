// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.OutboundSource;
import io.remora.core.ReplayQueue;
import io.remora.runtime.NodeLostException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;

/**
 * Sends the batches of a {@link BatchMailbox} over the connection to its node. The connection's
 * writer takes the waiting batches as frames, each as large as the settings allow, and uses the
 * batches' memory until it has written the frame.
 *
 * <p>The mailbox calls the methods with its lock, except those of {@link OutboundSource}, which
 * take it. A method that returns a connection leaves it to the caller to {@link #start} it, without
 * the lock.
 */
final class BatchSender implements OutboundSource {

  /**
   * Up to this size a batch is written at once if nothing else is in flight. Such a write cannot
   * block.
   */
  private static final int AT_ONCE_BYTES = 16 * 1024;

  static final String NO_CONNECTION = "there is no connection to its node at present";

  private static final long NOT_HELD = Long.MAX_VALUE;

  private final MailboxSetup setup;
  private final ReentrantLock lock;
  private final ReplayQueue<MailboxEntry> batches;
  private final Consumer<NodeLostException> onUnreadable;
  private final Runnable onWritten;
  private final ByteBuffer[] prefixes;

  private LinkConnection connection;
  private boolean scheduled; // the connection has been told that there are frames
  private boolean ended;
  private OutboundFrame afterAll;
  private long heldAfter = NOT_HELD; // batches behind this one wait for the machine to resume

  /**
   * @param onUnreadable is told, with the lock, that a batch was on disk and cannot be read
   * @param onWritten runs, with the lock, when the writer has finished with the memory of batches
   */
  BatchSender(MailboxSetup setup, Consumer<NodeLostException> onUnreadable, Runnable onWritten) {
    this.setup = setup;
    this.lock = setup.lock();
    this.batches = setup.batches();
    this.onUnreadable = onUnreadable;
    this.onWritten = onWritten;
    this.prefixes = new ByteBuffer[setup.settings().coalesceBatches()];
    int size = BatchMailbox.PREFIX_BYTES;
    ByteBuffer slab = ByteBuffer.allocateDirect(prefixes.length * size);
    for (int i = 0; i < prefixes.length; i++) {
      prefixes[i] = slab.slice(i * size, size).order(ByteOrder.LITTLE_ENDIAN);
    }
  }

  // The connection ------------------------------------------------------------------------------

  /** The connection to the node; null if there is none. */
  LinkConnection connection() {
    return connection;
  }

  /** From now on batches go out over this connection. */
  void connect(LinkConnection next) {
    connection = next;
  }

  /** There is no connection any more. The frame after all batches is forgotten. */
  void disconnect() {
    connection = null;
    afterAll = null;
    setup.room().changed();
  }

  /** Sends nothing any more. */
  void end() {
    ended = true;
    connection = null;
  }

  // What holds batches back ---------------------------------------------------------------------

  /** Makes batches wait that come from now on. */
  void hold() {
    heldAfter = batches.last();
    setup.room().changed();
  }

  /** Batches go out again. */
  void release() {
    heldAfter = NOT_HELD;
  }

  /** Whether batches wait since {@link #hold}. */
  boolean isHeld() {
    return heldAfter != NOT_HELD;
  }

  /** Whether batches that come now go out. */
  boolean isFlowing() {
    return connection != null && !isHeld();
  }

  /** What holds batches back; empty if nothing does. */
  String obstacle() {
    if (isHeld()) {
      return "the machine is pausing or paused, and no node has resumed it; see its log for the"
          + " reason";
    }
    return connection == null ? NO_CONNECTION : "";
  }

  /** Whether the next batch may be sent. */
  private boolean canSend() {
    return batches.lastSent() < Math.min(batches.last(), heldAfter);
  }

  // Frames --------------------------------------------------------------------------------------

  /**
   * Whether a batch that comes next may be written by the thread that submits it.
   *
   * @param mayBlock whether it may where writing blocks
   */
  boolean canSendAtOnce(int size, boolean mayBlock) {
    return connection != null
        && (mayBlock || connection.sendsWithoutBlocking())
        && batches.bytes() == 0
        && size <= AT_ONCE_BYTES;
  }

  /** The connection to tell of waiting batches; null if there are none, or if it knows of them. */
  LinkConnection schedule() {
    if (ended || scheduled || connection == null || !canSend()) {
      return null;
    }
    scheduled = true;
    return connection;
  }

  /** As {@link #schedule}, for this frame, which is sent after all batches submitted so far. */
  LinkConnection scheduleAfterAll(OutboundFrame frame) {
    if (ended || connection == null) {
      return null;
    }
    afterAll = frame;
    if (scheduled) {
      return null;
    }
    scheduled = true;
    return connection;
  }

  /** Whether a frame waits for all batches to be sent. */
  boolean hasFrameAfterAll() {
    return afterAll != null;
  }

  /** Has the connection send. Call it without the lock. */
  void start(LinkConnection target) {
    if (target != null) {
      target.send(this);
    }
  }

  /** As {@link #start}, on this thread. */
  void startAtOnce(LinkConnection target) {
    if (target != null) {
      target.sendNow(this);
    }
  }

  /** The waiting batches as one BATCH frame, as large as the settings allow. */
  @Override
  public OutboundFrame nextFrame() {
    lock.lock();
    try {
      if (!canSend() || ended) {
        scheduled = false;
        OutboundFrame last = ended ? null : afterAll;
        afterAll = null;
        return last;
      }
      List<MailboxEntry> entries = take();
      ByteBuffer[] payload = payload(entries);
      if (payload == null) {
        scheduled = false;
        return null;
      }
      return OutboundFrame.of(
          FrameType.BATCH,
          setup.session(),
          entries.get(0).batch.sequence(),
          () -> written(entries),
          payload);
    } finally {
      lock.unlock();
    }
  }

  /** The batches of the next frame, which count as sent from now on. */
  private List<MailboxEntry> take() {
    List<MailboxEntry> entries = new ArrayList<>();
    long bytes = 0;
    long now = setup.clock().getAsLong();
    do {
      MailboxEntry entry = batches.send();
      entry.sentNanos = now;
      bytes += BatchMailbox.PREFIX_BYTES + entry.size;
      entry.withWriter = true;
      entries.add(entry);
    } while (canSend()
        && entries.size() < prefixes.length
        && bytes + BatchMailbox.PREFIX_BYTES + batches.peekUnsent().size
            <= setup.settings().coalesceBytes());
    setup.room().changed();
    return entries;
  }

  /** Null if a batch cannot be read, which ends the session. */
  private ByteBuffer[] payload(List<MailboxEntry> entries) {
    ByteBuffer[] payload = new ByteBuffer[2 * entries.size()];
    for (int i = 0; i < entries.size(); i++) {
      MailboxEntry entry = entries.get(i);
      payload[2 * i] = prefixes[i].clear().putInt(entry.size).flip();
      try {
        payload[2 * i + 1] = entry.bytes();
      } catch (IOException e) {
        entries.forEach(each -> each.withWriter = false);
        onUnreadable.accept(
            new NodeLostException(
                "batch %d of session %d on machine %s was kept on disk for recovery, and cannot be read: %s"
                    .formatted(entry.batch.sequence(), setup.session(), setup.machine(), e),
                e));
        return null;
      }
    }
    return payload;
  }

  @Override
  public void onDropped() {
    LinkConnection next;
    lock.lock();
    try {
      // A submit that had meant the connection before may come here when the next one is there.
      next = scheduleAgain();
      if (next != null && !next.isOpen()) {
        scheduled = false;
        next = null;
      }
    } finally {
      lock.unlock();
    }
    start(next);
  }

  /** The writer has finished with these batches' memory. */
  private void written(List<MailboxEntry> entries) {
    LinkConnection next;
    lock.lock();
    try {
      for (MailboxEntry entry : entries) {
        entry.withWriter = false;
      }
      onWritten.run();
      next = scheduleAgain();
    } finally {
      lock.unlock();
    }
    for (MailboxEntry entry : entries) {
      entry.releaseIfDone();
    }
    start(next);
  }

  /** As {@link #schedule}, when the connection has done what it was told. */
  private LinkConnection scheduleAgain() {
    scheduled = !ended && connection != null && (canSend() || afterAll != null);
    return scheduled ? connection : null;
  }
}
