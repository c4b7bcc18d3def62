// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.function.ToLongFunction;
import java.util.stream.Stream;

/**
 * Items that travel to a peer in order. The queue keeps each item until the peer has acknowledged
 * it, and after a reconnection sends again those that the peer has not received. Items have the
 * numbers 1, 2, 3 …, without gaps. The queue counts their bytes, so that its owner can limit them.
 *
 * <p>Not thread-safe: a lock of the owner guards the queue.
 *
 * @param <T> the type of the items
 */
public final class ReplayQueue<T> {

  private final String noun;
  private final ToLongFunction<? super T> size;
  private final ArrayDeque<T> kept = new ArrayDeque<>();
  private final ArrayDeque<T> sent = new ArrayDeque<>();
  private final ArrayDeque<T> unsent = new ArrayDeque<>();
  private long last;
  private long bytes;
  private long unsentBytes;
  private boolean keeping;
  private long keptBytes;

  /**
   * Makes an empty queue.
   *
   * @param noun what an item is called in messages, such as "batch"
   * @param size the number of bytes of an item; must not change while the item is in the queue
   */
  public ReplayQueue(String noun, ToLongFunction<? super T> size) {
    this.noun = noun;
    this.size = size;
  }

  /**
   * Adds an unsent item.
   *
   * @throws IllegalArgumentException if {@code number} does not follow the last one
   */
  public void add(long number, T item) {
    if (number != last + 1) {
      throw new IllegalArgumentException(
          "%s %d came after %s %d".formatted(noun, number, noun, last));
    }
    last = number;
    unsent.addLast(item);
    long added = size.applyAsLong(item);
    bytes += added;
    unsentBytes += added;
  }

  /**
   * Continues after this number in an empty queue, whose items up to it went another way.
   *
   * @throws IllegalStateException if the queue has items, or is past the number
   */
  public void skipTo(long number) {
    if (!sent.isEmpty() || !unsent.isEmpty() || number < last) {
      throw new IllegalStateException(
          "%s %d cannot follow %s %d, with %d under way"
              .formatted(noun, number + 1, noun, last, sent.size() + unsent.size()));
    }
    last = number;
  }

  /** The first unsent item, which stays unsent; null if there is none. */
  public T peekUnsent() {
    return unsent.peekFirst();
  }

  /** The first unsent item, which counts as sent from now on; null if there is none. */
  public T send() {
    T item = unsent.pollFirst();
    if (item != null) {
      sent.addLast(item);
      unsentBytes -= size.applyAsLong(item);
    }
    return item;
  }

  /**
   * Keeps acknowledged items from now on, until {@link #forgetUpTo}, so that {@link #rewindTo} can
   * send them again. Call it while the queue is empty.
   */
  public void keepAcknowledged() {
    keeping = true;
  }

  /**
   * Removes the first sent item, or only notes its acknowledgement where acknowledged items are
   * kept, if it has this number, and returns it; otherwise returns null.
   */
  public T acknowledge(long number) {
    return !sent.isEmpty() && number == lastAcknowledged() + 1 ? removeFirst() : null;
  }

  /**
   * Removes the sent items with numbers up to this one.
   *
   * @return whether there were any
   */
  public boolean acknowledgeUpTo(long number) {
    boolean any = false;
    while (!sent.isEmpty() && lastAcknowledged() < number) {
      removeFirst();
      any = true;
    }
    return any;
  }

  private T removeFirst() {
    T item = sent.removeFirst();
    long removed = size.applyAsLong(item);
    bytes -= removed;
    if (keeping) {
      kept.addLast(item);
      keptBytes += removed;
    }
    return item;
  }

  /** Whether a peer can have received just the items up to this number. */
  public boolean canBeLastReceived(long number) {
    return number >= lastAcknowledged() && number <= lastSent();
  }

  /** Makes the sent items with higher numbers unsent again, in their places. */
  public void replayAfter(long lastReceived) {
    while (!sent.isEmpty() && lastSent() > lastReceived) {
      T item = sent.removeLast();
      unsent.addFirst(item);
      unsentBytes += size.applyAsLong(item);
    }
  }

  /** Removes the kept items with numbers up to this one, and returns them in order. */
  public List<T> forgetUpTo(long number) {
    List<T> removed = new ArrayList<>();
    while (!kept.isEmpty() && lastForgotten() < number) {
      T item = kept.removeFirst();
      keptBytes -= size.applyAsLong(item);
      removed.add(item);
    }
    return removed;
  }

  /**
   * Makes all items with higher numbers unsent, the kept ones included: a peer that has received
   * just the items up to this number is to receive them.
   *
   * @throws IllegalArgumentException if items after this number were not kept
   */
  public void rewindTo(long number) {
    if (number < lastForgotten() || number > lastAcknowledged()) {
      throw new IllegalArgumentException(
          "cannot send from %s %d again: %d to %d are kept"
              .formatted(noun, number + 1, lastForgotten() + 1, lastAcknowledged()));
    }
    replayAfter(lastAcknowledged());
    while (lastAcknowledged() > number) {
      T item = kept.removeLast();
      long returned = size.applyAsLong(item);
      keptBytes -= returned;
      bytes += returned;
      unsentBytes += returned;
      unsent.addFirst(item);
    }
  }

  /** Removes all items, which then count as acknowledged, and returns them in order. */
  public List<T> clear() {
    List<T> removed = new ArrayList<>(kept);
    removed.addAll(sent);
    removed.addAll(unsent);
    kept.clear();
    keptBytes = 0;
    sent.clear();
    unsent.clear();
    bytes = 0;
    unsentBytes = 0;
    return removed;
  }

  /**
   * Whether the limits permit another item. A single item is always permitted, however large: a
   * queue without bytes takes it, and the limit of unsent bytes does not count where all are sent.
   *
   * @param added the number of bytes of the item
   * @param maxBytes the limit of unacknowledged bytes
   * @param maxUnsentBytes the limit of unsent bytes; {@link Long#MAX_VALUE}: no limit
   */
  public boolean fits(long added, long maxBytes, long maxUnsentBytes) {
    return bytes == 0
        || (bytes + added <= maxBytes
            && (unsentBytes == 0 || unsentBytes + added <= maxUnsentBytes));
  }

  /** The number of the last item that was added; 0 before the first. */
  public long last() {
    return last;
  }

  /** The number of the last sent item; 0 before the first. */
  public long lastSent() {
    return last - unsent.size();
  }

  /** The number of the last acknowledged item; 0 before the first. */
  public long lastAcknowledged() {
    return lastSent() - sent.size();
  }

  /** The items up to this number are acknowledged and not kept; 0 before the first. */
  public long lastForgotten() {
    return lastAcknowledged() - kept.size();
  }

  /** The bytes of the acknowledged items that are kept. */
  public long keptBytes() {
    return keptBytes;
  }

  /** The acknowledged items that are kept, in order. */
  public Stream<T> kept() {
    return kept.stream();
  }

  /** The bytes of the items that are not acknowledged. */
  public long bytes() {
    return bytes;
  }

  /** The bytes of the unsent items. */
  public long unsentBytes() {
    return unsentBytes;
  }

  /** The sent items that are not acknowledged, in order. */
  public Stream<T> sent() {
    return sent.stream();
  }

  /** The unsent items, in order. */
  public Stream<T> unsent() {
    return unsent.stream();
  }
}
