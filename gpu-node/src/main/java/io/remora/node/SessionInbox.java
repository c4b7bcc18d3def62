// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import java.nio.ByteBuffer;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/**
 * What a session has received and not yet executed: the path on which batches reach the session's
 * thread without passing through a mailbox. One thread at a time puts (the connection's reader),
 * one takes (the session's); a wake-up happens only when the session's thread has run out of work.
 *
 * <p>The inbox owns the buffers in it, and whoever takes an entry owns its buffer. The bytes that
 * wait are bounded; the owner keeps to its in-flight limit, so going over the bound is an error of
 * its side.
 */
final class SessionInbox {

  /** One thing to do, in the order of arrival. */
  sealed interface Entry permits Batches, Save, Close {}

  /**
   * One or more batches in one frame.
   *
   * @param firstSequence sequence number of the first of them
   * @param payload the frame's payload, a direct buffer
   * @param bytes what it counts against the bound
   * @param release gives the buffer back
   */
  record Batches(long firstSequence, ByteBuffer payload, int bytes, Runnable release)
      implements Entry {}

  /** The owner wants the session to be saved after what came before. */
  record Save(String pause) implements Entry {}

  /** The owner wants the session to end after what came before. */
  record Close() implements Entry {}

  private final long maxBytes;
  private final ConcurrentLinkedQueue<Entry> entries = new ConcurrentLinkedQueue<>();
  private final AtomicLong bytes = new AtomicLong();
  private final AtomicBoolean wakeUpPending = new AtomicBoolean();
  private volatile Runnable wakeUp;
  private volatile boolean abandoned;

  SessionInbox(long maxBytes) {
    this.maxBytes = maxBytes;
  }

  /** The bound of the bytes that wait. */
  long maxBytes() {
    return maxBytes;
  }

  /** How many batches a frame's payload holds; those before the first that is cut off. */
  static long batchCount(ByteBuffer payload) {
    long count = 0;
    int position = payload.position();
    while (payload.limit() - position >= Integer.BYTES) {
      int length = payload.getInt(position);
      position += Integer.BYTES;
      if (length < 0 || length > payload.limit() - position) {
        break;
      }
      position += length;
      count++;
    }
    return count;
  }

  /**
   * Says how the session's thread is woken, and wakes it if something waits already.
   *
   * @param action must not block; leads to {@link #take} on the session's thread
   */
  void onWork(Runnable action) {
    wakeUp = action;
    if (abandoned || !entries.isEmpty()) {
      wake();
    }
  }

  /**
   * Puts an entry; after {@link #abandon} its buffer is released at once.
   *
   * @return false if the bytes that wait exceed the bound; the entry is in the inbox nevertheless
   */
  boolean put(Entry entry) {
    long waiting = entry instanceof Batches batches ? bytes.addAndGet(batches.bytes()) : 0;
    entries.add(entry);
    if (abandoned) {
      discardAll();
      return true;
    }
    wake();
    return waiting <= maxBytes;
  }

  /**
   * Takes the next entry. Only on the session's thread.
   *
   * @return the entry, or null if there is none; then the next {@link #put} wakes the session again
   */
  Entry take() {
    Entry entry = poll();
    if (entry != null) {
      return entry;
    }
    wakeUpPending.set(false);
    // An entry put just before the flag fell found it up, and woke nobody.
    if (!entries.isEmpty() && wakeUpPending.compareAndSet(false, true)) {
      return poll();
    }
    return null;
  }

  /** Bytes of the batches that wait. */
  long waitingBytes() {
    return bytes.get();
  }

  /** Whether nothing waits at the moment. */
  boolean isEmpty() {
    return entries.isEmpty();
  }

  /** True once the link is gone: nothing that waits here matters any more. */
  boolean abandoned() {
    return abandoned;
  }

  /**
   * Discards what waits and all that comes later, and wakes the session, which is over. Any thread.
   */
  void abandon() {
    close();
    wake();
  }

  /** As {@link #abandon}, when the session knows. */
  void close() {
    abandoned = true;
    discardAll();
  }

  private Entry poll() {
    Entry entry = entries.poll();
    if (entry instanceof Batches batches) {
      bytes.addAndGet(-batches.bytes());
    }
    return entry;
  }

  private void discardAll() {
    for (Entry entry = poll(); entry != null; entry = poll()) {
      if (entry instanceof Batches batches) {
        batches.release().run();
      }
    }
  }

  private void wake() {
    Runnable action = wakeUp;
    if (action != null && wakeUpPending.compareAndSet(false, true)) {
      action.run();
    }
  }
}
