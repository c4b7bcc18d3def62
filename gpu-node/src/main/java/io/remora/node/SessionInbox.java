// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import java.nio.ByteBuffer;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/**
 * The queue of what a session has received and not yet executed. Batches reach the session's thread
 * through it without passing through an actor's mailbox. One thread at a time puts (the
 * connection's reader) and one takes (the session's). A put wakes the session's thread only when
 * that thread has run out of work.
 *
 * <p>The inbox owns the buffers in it, and the taker of an entry owns the entry's buffer. The
 * number of waiting bytes is bounded. The machine observes its in-flight limit, so exceeding the
 * bound is the machine's error.
 */
final class SessionInbox {

  /** An entry of the queue, in the order of arrival. */
  sealed interface Entry permits Batches, Save, Close {}

  /**
   * One or more batches in one frame.
   *
   * @param firstSequence sequence number of the first of them
   * @param payload the frame's payload, a direct buffer
   * @param bytes how much the entry counts against the bound
   * @param release gives the buffer back
   */
  record Batches(long firstSequence, ByteBuffer payload, int bytes, Runnable release)
      implements Entry {

    /** Whether the frame is so short that reading it costs less than waking a thread. */
    boolean isShort() {
      return bytes <= SHORT_BYTES;
    }
  }

  /**
   * A request to save the session after the entries before this one.
   *
   * @param name under which it is saved
   * @param checkpoint whether the session continues while a copy of it is written
   * @param base the last checkpoint that the machine keeps; "" if there is none
   * @param atMark whether to wait for the program's next mark
   */
  record Save(String name, boolean checkpoint, String base, boolean atMark) implements Entry {}

  /** A request to end the session after the entries before this one. */
  record Close() implements Entry {}

  private static final int SHORT_BYTES = 16 * 1024;

  private final long maxBytes;
  private final ConcurrentLinkedQueue<Entry> entries = new ConcurrentLinkedQueue<>();
  private final AtomicLong bytes = new AtomicLong();
  private final AtomicBoolean wakeUpPending = new AtomicBoolean();
  private volatile Runnable wakeUp;
  private volatile boolean abandoned;

  SessionInbox(long maxBytes) {
    this.maxBytes = maxBytes;
  }

  /** The most bytes that may wait. */
  long maxBytes() {
    return maxBytes;
  }

  /** The number of complete batches at the start of a frame's payload. */
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
   * Sets the action that wakes the session's thread, and runs it if an entry is already waiting.
   *
   * @param action must not block; makes the session's thread call {@link #take}
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
   * @return false if the waiting bytes exceed the bound; the entry is in the inbox even then
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
   * @param bringMore called when there is no entry, without wake-ups; may put entries itself
   * @return the entry, or null if there is none; then the next {@link #put} wakes the session again
   */
  Entry take(Runnable bringMore) {
    Entry entry = poll();
    if (entry == null) {
      bringMore.run();
      entry = poll();
    }
    if (entry != null) {
      return entry;
    }
    wakeUpPending.set(false);
    // A put just before the flag was cleared still saw it set, and so did not wake this thread.
    if (!entries.isEmpty() && wakeUpPending.compareAndSet(false, true)) {
      return poll();
    }
    return null;
  }

  /** The bytes of the waiting batches. */
  long waitingBytes() {
    return bytes.get();
  }

  /** Whether the session's thread has run out of work, so that the next {@link #put} wakes it. */
  boolean isIdle() {
    return wakeUp != null && !wakeUpPending.get();
  }

  /** Whether the inbox is empty at the moment. */
  boolean isEmpty() {
    return entries.isEmpty();
  }

  /** True once the link is gone. The waiting entries no longer matter then. */
  boolean abandoned() {
    return abandoned;
  }

  /**
   * Discards waiting and later entries, and wakes the session's thread so that the session ends.
   * May be called on any thread.
   */
  void abandon() {
    close();
    wake();
  }

  /** Like {@link #abandon}, but called by the session itself, so that no wake-up is needed. */
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
