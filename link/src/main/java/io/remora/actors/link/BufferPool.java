// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;

/**
 * Reused direct buffers in sizes of powers of two. Thread-safe. Keeps at most {@code retainedBytes}
 * of unused memory; buffers beyond that are left to the garbage collector.
 */
public final class BufferPool {

  private static final int SMALLEST_SHIFT = 12;
  private static final int CLASSES = 20;

  private final long retainedLimit;
  private final List<ArrayDeque<PooledBuffer>> free = new ArrayList<>(CLASSES);
  private long retained;

  /** Creates an empty pool that keeps up to this many bytes of unused memory. */
  public BufferPool(long retainedLimit) {
    this.retainedLimit = retainedLimit;
    for (int i = 0; i < CLASSES; i++) {
      free.add(new ArrayDeque<>());
    }
  }

  /** Takes a buffer with position 0 and limit {@code size}, with one hold. */
  public PooledBuffer take(int size) {
    int sizeClass = sizeClass(size);
    PooledBuffer buffer;
    synchronized (this) {
      buffer = free.get(sizeClass).pollLast();
      if (buffer != null) {
        retained -= buffer.capacity();
      }
    }
    if (buffer == null) {
      buffer = new PooledBuffer(this, sizeClass, 1 << (SMALLEST_SHIFT + sizeClass));
    }
    return buffer.prepare(size);
  }

  synchronized void giveBack(PooledBuffer buffer) {
    if (retained + buffer.capacity() <= retainedLimit) {
      retained += buffer.capacity();
      free.get(buffer.sizeClass()).addLast(buffer);
    }
  }

  synchronized long retainedBytes() {
    return retained;
  }

  private static int sizeClass(int size) {
    int bits = 32 - Integer.numberOfLeadingZeros(Math.max(size, 1) - 1);
    return Math.max(0, bits - SMALLEST_SHIFT);
  }
}
