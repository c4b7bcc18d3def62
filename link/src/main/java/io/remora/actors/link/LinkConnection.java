// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import com.google.protobuf.ByteString;
import io.remora.actors.link.proto.SharedMemory;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.concurrent.Future;
import java.util.function.BooleanSupplier;

/**
 * Carries frames in both directions, the same way on both sides. {@link #start} makes one over a
 * socket; {@link LinkLine} is what others are made of.
 *
 * <p>Sending never blocks: frames queue, and are written from the caller's buffers. Each received
 * frame is checked and handed to the {@link Handler}. Frames of one source arrive in the order
 * sent. Nothing is resent: what was queued when the connection ended is dropped (its release runs
 * all the same).
 *
 * <p>The connection ends with {@link #close}, with {@link #finish}, when the peer closes, when
 * anything received is damaged, when the handler throws, or when nothing was heard for {@code
 * remora.link.heartbeat-timeout}. Then {@link Handler#onClosed} is called, once, after the last use
 * of any buffer. Thread-safe.
 */
public interface LinkConnection extends AutoCloseable {

  /** What the owner does with what arrives. All calls come from the thread that reads. */
  interface Handler {

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

  /**
   * Takes over a channel from {@link LinkTransport} and starts its threads.
   *
   * @param name who is at the other end, for thread names and logs
   */
  static LinkConnection start(
      LinkChannel channel, String name, LinkSettings settings, Handler handler) {
    return SocketConnection.start(channel, name, settings, handler);
  }

  /**
   * Queues a frame, or a source of frames, to be sent. Never blocks. After the end of the
   * connection the source is told that it was dropped, on this thread.
   */
  void send(OutboundSource source);

  /**
   * As {@link #send}, but writes on this thread if nobody else is writing and nothing else waits:
   * spares the switch to the writer thread, for short frames whose arrival somebody waits for. With
   * TLS this may block while the peer does not read, and an interrupt during the write closes the
   * connection.
   */
  void sendNow(OutboundSource source);

  /**
   * Sends a last frame behind all that is queued, then closes: waits for the peer to close as well,
   * so that it surely reads the frame, but for no longer than {@code limit}. What arrives meanwhile
   * is discarded. Returns at once; {@link Handler#onClosed} follows with no cause.
   */
  void finish(OutboundFrame last, Duration limit);

  /** Ends the connection now. Idempotent, does not wait. */
  @Override
  void close();

  /** Ends the connection now and reports {@code reason} to the handler. The first reason wins. */
  void closeBecause(Throwable reason);

  /** Whether the connection has not begun to close. */
  boolean isOpen();

  /** Who is at the other end, as given to {@link #start}. */
  String name();

  /** Whether {@link #sendNow} never blocks, so that an interrupt cannot hurt the connection. */
  boolean sendsWithoutBlocking();

  /**
   * What the dialling end sends so that its peer may {@linkplain #offerMemory offer} shared memory:
   * 16 random bytes, or nothing if this end cannot or shall not share memory.
   */
  ByteString memoryChallenge();

  /**
   * Makes memory to share with the dialling end, for large batches and values in both directions.
   * It is used when the peer has opened it.
   *
   * @param challenge what the peer has sent
   * @return what the peer needs for {@link #openMemory}; null if there is no memory to share
   */
  SharedMemory offerMemory(ByteString challenge);

  /**
   * Opens, on the dialling end, the memory that the peer has offered, and tells the peer whether
   * this has succeeded. If it has not, all bytes go over the socket.
   *
   * @return whether it has succeeded
   */
  boolean openMemory(SharedMemory offered);

  /** Whether this end writes large payloads to shared memory. */
  boolean sharesMemory();

  /** The settings given to {@link #start}. */
  LinkSettings settings();

  /** Bytes written to the socket so far, headers included. */
  long bytesSent();

  /** Bytes read from the socket so far, headers included. */
  long bytesReceived();

  /**
   * Waits until {@code done} is done, for at most {@code nanos}. Meanwhile this thread reads the
   * socket, if it can without blocking and no other thread does. Whether it is done, the caller
   * asks it.
   *
   * @throws InterruptedException if the thread is interrupted; the connection stays open
   */
  void await(Future<?> done, long nanos) throws InterruptedException;

  /**
   * Reads the socket on this thread until {@code done} is true, for at most {@code nanos}. Returns
   * early, with the reader thread reading again, when the thread is interrupted or the connection
   * is closed. Not for threads that hold a lock that the {@link Handler} takes.
   *
   * @return whether {@code done} is true; false at once if another thread reads, or reading would
   *     block
   */
  boolean readUntil(BooleanSupplier done, long nanos);

  /**
   * Makes the reader thread leave the next frames to a thread that is about to call {@link
   * #readUntil}. Only for the {@link Handler}, while it handles a frame.
   */
  void lend();
}
