// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A payload in reused native memory. It may be used during the call of {@link
 * LinkConnection.Handler#onFrame}. To use it longer, call {@link #retain()}, and later {@link
 * #release()}, on any thread.
 */
public final class PooledBuffer {

  private final BufferPool pool;
  private final int sizeClass;
  private final ByteBuffer memory;
  private final AtomicInteger holders = new AtomicInteger();

  PooledBuffer(BufferPool pool, int sizeClass, int capacity) {
    this.pool = pool;
    this.sizeClass = sizeClass;
    this.memory = ByteBuffer.allocateDirect(capacity).order(ByteOrder.LITTLE_ENDIAN);
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
      pool.giveBack(this);
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
