// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A payload in reused native memory, or in memory that a peer shares. It may be used during the
 * call of {@link LinkConnection.Handler#onFrame}. To use it longer, call {@link #retain()}, and
 * later {@link #release()}, on any thread.
 */
public final class PooledBuffer {

  private final int sizeClass;
  private final ByteBuffer memory;
  private final Runnable free;
  private final AtomicInteger holders = new AtomicInteger();

  PooledBuffer(BufferPool pool, int sizeClass, int capacity) {
    this.sizeClass = sizeClass;
    this.memory = ByteBuffer.allocateDirect(capacity).order(ByteOrder.LITTLE_ENDIAN);
    this.free = () -> pool.giveBack(this);
  }

  /**
   * A payload outside the pools, with one hold.
   *
   * @param memory direct and little-endian
   * @param free called once, after the last hold
   */
  PooledBuffer(ByteBuffer memory, Runnable free) {
    this.sizeClass = -1;
    this.memory = memory;
    this.free = free;
    holders.set(1);
  }

  /**
   * The payload: a direct little-endian buffer, always the same object, whose position and limit
   * belong to the holder.
   */
  public ByteBuffer bytes() {
    return memory;
  }

  /** Keeps the buffer beyond the current call. Needs one more {@link #release()}. */
  public PooledBuffer retain() {
    int before = holders.getAndIncrement();
    if (before <= 0) {
      holders.getAndDecrement();
      throw new IllegalStateException("the buffer was already released");
    }
    return this;
  }

  /**
   * Gives up one hold. After the last one the memory is reused.
   *
   * @throws IllegalStateException if there is no hold left
   */
  public void release() {
    int after = holders.decrementAndGet();
    if (after < 0) {
      holders.incrementAndGet();
      throw new IllegalStateException("the buffer was already released");
    }
    if (after == 0) {
      free.run();
    }
  }

  PooledBuffer prepare(int size) {
    holders.set(1);
    memory.clear().limit(size);
    return this;
  }

  int sizeClass() {
    return sizeClass;
  }

  int capacity() {
    return memory.capacity();
  }
}
