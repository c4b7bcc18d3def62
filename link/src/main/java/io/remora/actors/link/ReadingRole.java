// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.io.IOException;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BooleanSupplier;

/**
 * Which thread reads a connection: one at a time. A thread that waits for a frame takes the role if
 * it is free, and the connection's reader thread has it while nobody else wants it. With a channel
 * that blocks, the reader thread always has it. Thread-safe.
 */
final class ReadingRole {

  /** How long the reader thread leaves reading to the threads that wait. */
  private static final long LEND_NANOS = 1_000_000;

  private final SocketConnection connection;
  private final LinkChannel channel;
  private final Thread reader;

  /** Held by whoever reads the socket; guards {@link #receiver}. */
  private final ReentrantLock reading = new ReentrantLock();

  private final FrameReceiver receiver;

  /** The waits of threads that do not read themselves. */
  private final Set<Wait> waits = ConcurrentHashMap.newKeySet();

  /** How often other threads than the reader thread have begun to read. */
  private volatile int loans;

  /** The reader thread waits for the end of a long loan. */
  private volatile boolean readerWaits;

  /** The reader thread shall read at once. */
  private volatile boolean readerCalled;

  /** Another thread is about to read. Guarded by {@link #reading}. */
  private boolean lend;

  // The reader thread's.
  private boolean started;

  /**
   * @param reader the connection's reader thread, which calls {@link #readWhileOpen}
   */
  ReadingRole(
      SocketConnection connection, LinkChannel channel, FrameReceiver receiver, Thread reader) {
    this.connection = connection;
    this.channel = channel;
    this.receiver = receiver;
    this.reader = reader;
  }

  /** Reads on the reader thread, as long as the connection is open, while it has the role. */
  void readWhileOpen() throws IOException {
    while (connection.isOpen() && awaitTurn()) {
      if (reading.tryLock()) {
        try {
          readUntilLent();
        } finally {
          reading.unlock();
        }
      }
    }
  }

  /** Reads on the reader thread until another thread is to read, or the connection is closed. */
  private void readUntilLent() throws IOException {
    lend = false;
    while (connection.isOpen()) {
      if (!receiver.advance()) {
        channel.awaitReadable(0);
      } else if (lend || (!waits.isEmpty() && !channel.blocks() && nobodyWaits())) {
        return;
      }
    }
  }

  /** A thread waits for what another thread reads. */
  private static final class Wait {

    final Future<?> until;

    Wait(Future<?> until) {
      this.until = until;
    }
  }

  /** Whether all that threads wait for, without reading, has arrived. */
  private boolean nobodyWaits() {
    for (Wait one : waits) {
      if (!one.until.isDone()) {
        return false;
      }
    }
    return true;
  }

  /**
   * Waits until no other thread has read for a while, or has called the reader thread; false if the
   * connection is closed. The first turn is the reader thread's.
   */
  private boolean awaitTurn() {
    if (!started) {
      started = true;
      return true;
    }
    while (connection.isOpen()) {
      int before = loans;
      boolean lent = reading.isLocked();
      LockSupport.parkNanos(this, LEND_NANOS);
      if (readerCalled) {
        readerCalled = false;
        return true;
      }
      if (before != loans) {
        continue;
      }
      if (!reading.isLocked()) {
        return true;
      }
      if (lent) {
        // A long loan: its end wakes this thread, which then waits for the next loan as before.
        readerWaits = true;
        if (reading.isLocked() && before == loans && !readerCalled && connection.isOpen()) {
          LockSupport.park(this);
        }
        readerWaits = false;
      }
    }
    return false;
  }

  /** See {@link LinkConnection#await}. */
  void await(Future<?> done, long nanos) throws InterruptedException {
    long end = System.nanoTime() + nanos;
    if (readUntil(done::isDone, nanos)) {
      return;
    }
    if (Thread.interrupted()) {
      throw new InterruptedException();
    }
    Wait wait = new Wait(done);
    waits.add(wait);
    try {
      done.get(Math.max(0, end - System.nanoTime()), TimeUnit.NANOSECONDS);
    } catch (TimeoutException | ExecutionException e) {
      // The caller looks for itself.
    } finally {
      waits.remove(wait);
    }
  }

  /** See {@link LinkConnection#readUntil}. */
  @SuppressWarnings("NonAtomicVolatileUpdate") // loans: only with the lock for reading
  boolean readUntil(BooleanSupplier done, long nanos) {
    if (done.getAsBoolean()) {
      return true;
    }
    if (channel.blocks()
        || !connection.isOpen()
        || reading.isHeldByCurrentThread()
        || !reading.tryLock()) {
      return false;
    }
    boolean finished = false;
    try {
      loans++;
      finished = readHere(done, System.nanoTime() + nanos);
    } catch (IOException | RuntimeException | Error e) {
      connection.closeBecause(e);
    } finally {
      reading.unlock();
    }
    if (!finished || !nobodyWaits()) {
      readerCalled = true;
      LockSupport.unpark(reader);
    } else if (readerWaits) {
      LockSupport.unpark(reader);
    }
    return finished;
  }

  /** With the lock for reading. */
  private boolean readHere(BooleanSupplier done, long endNanos) throws IOException {
    while (!done.getAsBoolean()) {
      long left = endNanos - System.nanoTime();
      if (left <= 0 || !connection.isOpen() || Thread.currentThread().isInterrupted()) {
        return false;
      }
      if (!receiver.advance()) {
        channel.awaitReadable(TimeUnit.NANOSECONDS.toMillis(left + 999_999));
      }
    }
    return true;
  }

  /** See {@link LinkConnection#lend}. */
  void lend() {
    lend = !channel.blocks();
  }

  /** Waits for the threads that still read the closed connection. */
  void join() {
    reading.lock();
    try {
      receiver.release();
    } finally {
      reading.unlock();
    }
  }
}
