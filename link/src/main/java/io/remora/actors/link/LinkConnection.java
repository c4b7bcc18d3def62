// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import com.google.protobuf.ByteString;
import io.remora.actors.link.proto.SharedMemory;
import java.io.IOException;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BooleanSupplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Carries frames over one connected socket, the same way on both sides.
 *
 * <p>Sending never blocks: frames queue and a writer thread writes all that waits with one
 * gathering write, straight from the caller's buffers. A reader thread checks each frame and hands
 * it to the {@link Handler}; the bytes of values are read from the socket right into the memory
 * that the handler names. Frames of one source arrive in the order sent. Nothing is resent: what
 * was queued when the connection ended is dropped (its release runs all the same).
 *
 * <p>The bytes of large payloads go through {@link LinkMemory} where both ends are on one computer
 * and have agreed on it; the socket carries their frames, so that the order is the same.
 *
 * <p>Each wake-up of another thread costs more than reading a short frame. So without TLS, a thread
 * that waits for a frame reads the socket itself, see {@link #await} and {@link #readUntil}. At any
 * time one thread reads. The reader thread reads when no other has read for a millisecond.
 *
 * <p>The connection ends with {@link #close}, with {@link #finish}, when the peer closes, when
 * anything received is damaged, when the handler throws, or when nothing was heard for {@code
 * remora.link.heartbeat-timeout}. Then both threads end, and {@link Handler#onClosed} is called,
 * once, after the last use of any buffer. Thread-safe.
 */
public final class LinkConnection implements AutoCloseable {

  /** What the owner does with what arrives. All calls come from the thread that reads. */
  public interface Handler {

    /**
     * A whole, verified frame (any type but VALUE and HEARTBEAT). An exception closes the
     * connection with it as the cause.
     *
     * @param payload valid during the call, or until released if {@linkplain PooledBuffer#retain
     *     retained}
     */
    void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload);

    /**
     * Where the bytes of this chunk go. They are written before their checksum is known: only
     * {@link #onValue} says that they are right.
     *
     * @return a buffer with exactly {@code value.length()} bytes remaining; null: discard them
     */
    default ByteBuffer valueDestination(FrameHeader header, ValueHeader value) {
      return null;
    }

    /** The chunk is complete and verified. Not called for discarded chunks. */
    default void onValue(FrameHeader header, ValueHeader value) {}

    /**
     * The connection has ended; the last call.
     *
     * @param cause null when this side closed it, else what ended it
     */
    void onClosed(LinkConnection connection, Throwable cause);
  }

  private static final Logger log = LoggerFactory.getLogger(LinkConnection.class);

  private final LinkChannel channel;
  private final String name;
  private final LinkSettings settings;
  private final Handler handler;
  private final MemorySharing sharing;
  private final Thread reader;
  private final FrameReceiver receiver;
  private final ReadingRole role;
  private final Thread writer;
  private final ConcurrentLinkedQueue<OutboundSource> queue = new ConcurrentLinkedQueue<>();

  /** Held by whoever writes to the socket; guards {@link #gather}. */
  private final ReentrantLock writing = new ReentrantLock();

  private final FrameGather gather;
  private final AtomicBoolean closing = new AtomicBoolean();
  private final AtomicReference<Throwable> cause = new AtomicReference<>();

  private volatile boolean writerWaits;
  private volatile boolean finishing;
  private volatile ScheduledFuture<?> watch;

  private LinkConnection(LinkChannel channel, String name, LinkSettings settings, Handler handler) {
    this.channel = requireNonNull(channel, "channel");
    this.name = requireNonNull(name, "name");
    this.settings = requireNonNull(settings, "settings");
    this.handler = requireNonNull(handler, "handler");
    this.sharing = new MemorySharing(name, mayShare(channel) ? settings.sharedMemoryBytes() : 0);
    this.reader = new Thread(this::read, "remora-link-read-" + name);
    this.writer = new Thread(this::write, "remora-link-write-" + name);
    this.receiver = new FrameReceiver(this, channel, sharing, settings, handler);
    this.role = new ReadingRole(this, channel, receiver, reader);
    this.gather = new FrameGather(queue, channel, sharing, settings, name);
    reader.setDaemon(true);
    writer.setDaemon(true);
  }

  /**
   * Takes over a channel from {@link LinkTransport} and starts its threads.
   *
   * @param name who is at the other end, for thread names and logs
   */
  public static LinkConnection start(
      LinkChannel channel, String name, LinkSettings settings, Handler handler) {
    LinkConnection connection = new LinkConnection(channel, name, settings, handler);
    connection.watch = LinkWatch.watch(connection, settings.heartbeatInterval());
    try {
      channel.start();
    } catch (IOException e) {
      connection.closeBecause(e);
    }
    connection.writer.start();
    connection.reader.start();
    return connection;
  }

  /**
   * Queues a frame, or a source of frames, to be sent. Never blocks. After the end of the
   * connection the source is told that it was dropped, on this thread.
   */
  public void send(OutboundSource source) {
    queue.add(source);
    wakeWriter();
  }

  /**
   * As {@link #send}, but writes on this thread if nobody else is writing and nothing else waits:
   * spares the switch to the writer thread, for short frames whose arrival somebody waits for. With
   * TLS this may block while the peer does not read, and an interrupt during the write closes the
   * connection.
   */
  public void sendNow(OutboundSource source) {
    boolean othersWait = !queue.isEmpty();
    queue.add(source);
    if (othersWait) {
      wakeWriter(); // what others have to say is not written on this thread
      return;
    }
    // A release that sends is called in the middle of a write: then what it sends is next anyway.
    if (closing.get() || writing.isHeldByCurrentThread() || !writing.tryLock()) {
      wakeWriter();
      return;
    }
    if (closing.get()) {
      // Its end may have been told: no source may be asked for frames any more.
      writing.unlock();
      dropQueued();
      return;
    }
    try {
      // Once only: a caller shall not end up writing what others keep queueing.
      if (!gather.isWritten() || gather.collect(false)) {
        gather.write();
      }
    } catch (IOException | RuntimeException | Error e) {
      gather.release();
      closeBecause(e);
    } finally {
      writing.unlock();
    }
    // What the socket did not take, what came while this thread was about to stop writing, and the
    // end of output, are the writer's.
    if (!queue.isEmpty() || gather.isEndOfOutput() || !gather.isWritten()) {
      wakeWriter();
    }
  }

  private void wakeWriter() {
    if (writerWaits) {
      LockSupport.unpark(writer);
    }
    if (closing.get()) {
      dropQueued();
    }
  }

  /**
   * Sends a last frame behind all that is queued, then closes: waits for the peer to close as well,
   * so that it surely reads the frame, but for no longer than {@code limit}. What arrives meanwhile
   * is discarded. Returns at once; {@link Handler#onClosed} follows with no cause.
   */
  public void finish(OutboundFrame last, Duration limit) {
    finishing = true;
    send(last);
    send(new FrameGather.EndOfOutput());
    LinkWatch.after(limit, this::close);
  }

  /** Ends the connection now. Idempotent, does not wait. */
  @Override
  public void close() {
    closeBecause(null);
  }

  /** Ends the connection now and reports {@code reason} to the handler. The first reason wins. */
  public void closeBecause(Throwable reason) {
    if (!closing.compareAndSet(false, true)) {
      return;
    }
    cause.set(finishing ? null : reason);
    ScheduledFuture<?> task = watch;
    if (task != null) {
      task.cancel(false);
    }
    try {
      channel.close();
    } catch (IOException e) {
      log.debug("Closing the socket of {} failed", name, e);
    }
    LockSupport.unpark(writer);
    LockSupport.unpark(reader);
  }

  /** Whether the connection has not begun to close. */
  public boolean isOpen() {
    return !closing.get();
  }

  /** Whether the last frame was queued, so that what arrives is discarded. */
  boolean isFinishing() {
    return finishing;
  }

  /** Who is at the other end, as given to {@link #start}. */
  public String name() {
    return name;
  }

  /** Whether {@link #sendNow} never blocks, so that an interrupt cannot hurt the connection. */
  public boolean sendsWithoutBlocking() {
    return !channel.blocks();
  }

  // Shared memory ------------------------------------------------------------------------------

  /** Only a peer on this computer can share memory, and TLS protects more than memory does. */
  private static boolean mayShare(LinkChannel channel) {
    try {
      return !channel.blocks() && channel.remoteAddress().getAddress().isLoopbackAddress();
    } catch (IOException e) {
      return false; // closed already
    }
  }

  /**
   * What the dialling end sends so that its peer may {@linkplain #offerMemory offer} shared memory:
   * 16 random bytes, or nothing if this end cannot or shall not share memory.
   */
  public ByteString memoryChallenge() {
    return sharing.challenge();
  }

  /**
   * Makes memory to share with the dialling end, for large batches and values in both directions.
   * It is used when the peer has opened it.
   *
   * @param challenge what the peer has sent
   * @return what the peer needs for {@link #openMemory}; null if there is no memory to share
   */
  public SharedMemory offerMemory(ByteString challenge) {
    return sharing.offer(challenge);
  }

  /**
   * Opens, on the dialling end, the memory that the peer has offered, and tells the peer whether
   * this has succeeded. If it has not, all bytes go over the socket.
   *
   * @return whether it has succeeded
   */
  public boolean openMemory(SharedMemory offered) {
    boolean opened = sharing.open(offered);
    send(OutboundFrame.empty(FrameType.SHARED_MEMORY, 0, opened ? FrameType.OPENED : 0));
    return opened;
  }

  /** Whether this end writes large payloads to shared memory. */
  public boolean sharesMemory() {
    return sharing.writer() != null;
  }

  /** The settings given to {@link #start}. */
  public LinkSettings settings() {
    return settings;
  }

  /** Bytes written to the socket so far, headers included. */
  public long bytesSent() {
    return gather.bytesSent();
  }

  /** Bytes read from the socket so far, headers included. */
  public long bytesReceived() {
    return receiver.bytesReceived();
  }

  @Override
  public String toString() {
    return "LinkConnection(" + name + ")";
  }

  // Watching -----------------------------------------------------------------------------------

  /** Called by the watch every heartbeat interval. */
  void checkAlive(long nowNanos) {
    long silent = receiver.silence(nowNanos);
    if (silent > settings.heartbeatTimeout().toNanos()) {
      closeBecause(
          new SocketTimeoutException(
              "nothing was heard from "
                  + name
                  + " for "
                  + TimeUnit.NANOSECONDS.toMillis(silent)
                  + " ms (remora.link.heartbeat-timeout)"));
    }
  }

  // Writing ------------------------------------------------------------------------------------

  private void write() {
    long intervalNanos = settings.heartbeatInterval().toNanos();
    try {
      while (!closing.get()) {
        if (writeQueued()) {
          continue;
        }
        if (gather.isEndOfOutput()) {
          channel.shutdownOutput();
          return;
        }
        long wait = intervalNanos - (System.nanoTime() - gather.lastSentNanos());
        if (wait <= 0) {
          queue.add(OutboundFrame.empty(FrameType.HEARTBEAT, 0, 0));
        } else {
          awaitWork(wait);
        }
      }
    } catch (IOException | RuntimeException | Error e) {
      closeBecause(e);
    } finally {
      if (closing.get()) {
        dropQueued();
      }
    }
  }

  /** One gathering write of what waits; false if nothing did. */
  private boolean writeQueued() throws IOException {
    writing.lock();
    try {
      if (gather.isWritten() && !gather.collect(true)) {
        return false;
      }
      gather.write();
      while (!gather.isWritten() && !closing.get()) {
        channel.awaitWritable();
        gather.write();
      }
      return true;
    } catch (IOException | RuntimeException | Error e) {
      gather.release();
      throw e;
    } finally {
      writing.unlock();
    }
  }

  private void awaitWork(long nanos) {
    writerWaits = true;
    if (queue.isEmpty() && gather.isWritten() && !closing.get()) {
      LockSupport.parkNanos(this, nanos);
    }
    writerWaits = false;
  }

  private void dropQueued() {
    for (OutboundSource source = queue.poll(); source != null; source = queue.poll()) {
      try {
        source.onDropped();
      } catch (RuntimeException e) {
        log.warn("Dropping a frame to {} failed", name, e);
      }
    }
  }

  private void joinWriter() {
    boolean interrupted = false;
    while (true) {
      try {
        writer.join();
        break;
      } catch (InterruptedException e) {
        interrupted = true;
      }
    }
    // Somebody in sendNow may still be on the way out of a write to the closed socket.
    writing.lock();
    try {
      gather.release();
      dropQueued();
    } finally {
      writing.unlock();
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  // Reading ------------------------------------------------------------------------------------

  private void read() {
    try {
      role.readWhileOpen();
    } catch (IOException | RuntimeException | Error e) {
      closeBecause(e);
    } finally {
      close();
      joinWriter();
      role.join();
      sharing.end();
      try {
        handler.onClosed(this, cause.get());
      } catch (RuntimeException e) {
        log.error("The owner of the link to {} failed when it was told of its end", name, e);
      }
    }
  }

  /**
   * Waits until {@code done} is done, for at most {@code nanos}. Meanwhile this thread reads the
   * socket, if it can without blocking and no other thread does. Whether it is done, the caller
   * asks it.
   *
   * @throws InterruptedException if the thread is interrupted; the connection stays open
   */
  public void await(Future<?> done, long nanos) throws InterruptedException {
    role.await(done, nanos);
  }

  /**
   * Reads the socket on this thread until {@code done} is true, for at most {@code nanos}. Returns
   * early, with the reader thread reading again, when the thread is interrupted or the connection
   * is closed. Not for threads that hold a lock that the {@link Handler} takes.
   *
   * @return whether {@code done} is true; false at once if another thread reads, or reading would
   *     block
   */
  public boolean readUntil(BooleanSupplier done, long nanos) {
    return role.readUntil(done, nanos);
  }

  /**
   * Makes the reader thread leave the next frames to a thread that is about to call {@link
   * #readUntil}. Only for the {@link Handler}, while it handles a frame.
   */
  public void lend() {
    role.lend();
  }
}
