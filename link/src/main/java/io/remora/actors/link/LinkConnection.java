// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.ProtocolException;
import java.io.EOFException;
import java.io.IOException;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.Arrays;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;
import java.util.zip.CRC32C;
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
 * <p>The connection ends with {@link #close}, with {@link #finish}, when the peer closes, when
 * anything received is damaged, when the handler throws, or when nothing was heard for {@code
 * remora.link.heartbeat-timeout}. Then both threads end, and {@link Handler#onClosed} is called,
 * once, after the last use of any buffer. Thread-safe.
 */
public final class LinkConnection implements AutoCloseable {

  /** What the owner does with what arrives. All calls come from the reader thread. */
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

  /** Small frames are read through this buffer; of longer ones at most this much is copied. */
  private static final int RECEIVE_BYTES = 8 * 1024;

  private static final int DISCARD_BYTES = 64 * 1024;

  /** Bounds of one gathering write. */
  private static final int GATHER_FRAMES = 64;

  private static final long GATHER_BYTES = 4L << 20;

  private final LinkChannel channel;
  private final String name;
  private final LinkSettings settings;
  private final Handler handler;
  private final BufferPool pool;
  private final Thread reader;
  private final Thread writer;
  private final ConcurrentLinkedQueue<OutboundSource> queue = new ConcurrentLinkedQueue<>();

  /** Held by whoever writes to the socket; guards {@link #gather}. */
  private final ReentrantLock writing = new ReentrantLock();

  private final Gather gather = new Gather();
  private final AtomicBoolean closing = new AtomicBoolean();
  private final AtomicReference<Throwable> cause = new AtomicReference<>();

  private volatile boolean writerWaits;
  private volatile boolean finishing;
  private volatile long lastSentNanos = System.nanoTime();
  private volatile long lastReceivedNanos = System.nanoTime();

  /** The reader is with the handler: what the peer sends meanwhile waits unread. */
  private volatile boolean handling;

  private volatile long bytesSent;
  private volatile long bytesReceived;
  private volatile ScheduledFuture<?> watch;

  private LinkConnection(LinkChannel channel, String name, LinkSettings settings, Handler handler) {
    this.channel = requireNonNull(channel, "channel");
    this.name = requireNonNull(name, "name");
    this.settings = requireNonNull(settings, "settings");
    this.handler = requireNonNull(handler, "handler");
    this.pool = new BufferPool(settings.poolBytes());
    this.reader = new Thread(this::read, "remora-link-read-" + name);
    this.writer = new Thread(this::write, "remora-link-write-" + name);
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
   * spares the switch to the writer thread, for short frames whose arrival somebody waits for. May
   * block while the peer does not read. Not for threads that may be interrupted: an interrupt
   * during the write closes the connection.
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
      if (gather.collect()) {
        gather.writeAll();
      }
    } catch (IOException | RuntimeException | Error e) {
      closeBecause(e);
    } finally {
      gather.release();
      writing.unlock();
    }
    // What came while this thread was about to stop writing, and the end of output, are the
    // writer's.
    if (!queue.isEmpty() || gather.endOfOutput) {
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
    send(new EndOfOutput());
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
  }

  /** Whether the connection has not begun to close. */
  public boolean isOpen() {
    return !closing.get();
  }

  /** Who is at the other end, as given to {@link #start}. */
  public String name() {
    return name;
  }

  /** The settings given to {@link #start}. */
  public LinkSettings settings() {
    return settings;
  }

  /** Bytes written to the socket so far, headers included. */
  public long bytesSent() {
    return bytesSent;
  }

  /** Bytes read from the socket so far, headers included. */
  public long bytesReceived() {
    return bytesReceived;
  }

  @Override
  public String toString() {
    return "LinkConnection(" + name + ")";
  }

  // Watching -----------------------------------------------------------------------------------

  /** Called by the watch every heartbeat interval. */
  void checkAlive(long nowNanos) {
    long silent = nowNanos - lastReceivedNanos;
    if (!handling && silent > settings.heartbeatTimeout().toNanos()) {
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
        if (gather.endOfOutput) {
          channel.shutdownOutput();
          return;
        }
        long wait = intervalNanos - (System.nanoTime() - lastSentNanos);
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
      if (!gather.collect()) {
        return false;
      }
      gather.writeAll();
      return true;
    } finally {
      gather.release();
      writing.unlock();
    }
  }

  private void awaitWork(long nanos) {
    writerWaits = true;
    if (queue.isEmpty() && !closing.get()) {
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

  /** The frames of one gathering write. All memory is reused. */
  private final class Gather {

    private final ByteBuffer[] headers = new ByteBuffer[GATHER_FRAMES];
    private final OutboundFrame[] frames = new OutboundFrame[GATHER_FRAMES];
    private final CRC32C payloadCrc = new CRC32C();
    private final CRC32C headerCrc = new CRC32C();
    private ByteBuffer[] buffers = new ByteBuffer[4 * GATHER_FRAMES];
    private int frameCount;
    private int bufferCount;
    private long byteCount;
    private int framesBefore;
    private volatile boolean endOfOutput;

    Gather() {
      ByteBuffer slab = ByteBuffer.allocateDirect(GATHER_FRAMES * FrameHeader.BYTES);
      for (int i = 0; i < GATHER_FRAMES; i++) {
        headers[i] =
            slab.slice(i * FrameHeader.BYTES, FrameHeader.BYTES).order(ByteOrder.LITTLE_ENDIAN);
      }
    }

    /** Takes what waits; false if there is nothing to write. */
    boolean collect() {
      while (frameCount < GATHER_FRAMES && byteCount < GATHER_BYTES && !endOfOutput) {
        OutboundSource source = queue.poll();
        if (source == null) {
          break;
        }
        if (source instanceof EndOfOutput) {
          endOfOutput = true;
          break;
        }
        OutboundFrame frame = source.nextFrame();
        if (frame != null) {
          add(frame);
        }
      }
      return frameCount > 0;
    }

    private void add(OutboundFrame frame) {
      ByteBuffer header = headers[frameCount];
      frames[frameCount++] = frame;
      int headerIndex = bufferCount;
      push(header);
      payloadCrc.reset();
      long length = 0;
      for (ByteBuffer part : frame.payload()) {
        int position = part.position();
        length += part.remaining();
        payloadCrc.update(part);
        part.position(position);
        push(part);
      }
      if (length > settings.maxFrameBytes()) {
        bufferCount = headerIndex;
        throw new IllegalArgumentException(
            "a "
                + frame.type()
                + " frame of "
                + length
                + " bytes is over the limit of "
                + settings.maxFrameBytes()
                + " (remora.link.max-frame-bytes)");
      }
      FrameHeader.write(
          header.clear(),
          headerCrc,
          framesBefore++,
          frame.type(),
          0,
          (int) length,
          frame.session(),
          frame.sequence(),
          (int) payloadCrc.getValue());
      header.flip();
      byteCount += FrameHeader.BYTES + length;
    }

    private void push(ByteBuffer buffer) {
      if (bufferCount == buffers.length) {
        buffers = Arrays.copyOf(buffers, 2 * buffers.length);
      }
      buffers[bufferCount++] = buffer;
    }

    void writeAll() throws IOException {
      int first = 0;
      while (first < bufferCount) {
        addSent(channel.write(buffers, first, bufferCount - first));
        while (first < bufferCount && !buffers[first].hasRemaining()) {
          first++;
        }
      }
      lastSentNanos = System.nanoTime();
      release();
    }

    void release() {
      Arrays.fill(buffers, 0, bufferCount, null);
      bufferCount = 0;
      byteCount = 0;
      int count = frameCount;
      frameCount = 0;
      for (int i = 0; i < count; i++) {
        OutboundFrame frame = frames[i];
        frames[i] = null;
        try {
          frame.release();
        } catch (RuntimeException e) {
          log.warn("Releasing a frame to {} failed", name, e);
        }
      }
    }
  }

  /** Marks where the output ends. */
  private static final class EndOfOutput implements OutboundSource {
    @Override
    public OutboundFrame nextFrame() {
      throw new IllegalStateException("no frame");
    }
  }

  @SuppressWarnings("NonAtomicVolatileUpdate") // only whoever holds the write lock writes it
  private void addSent(long count) {
    bytesSent += count;
  }

  // Reading ------------------------------------------------------------------------------------

  private void read() {
    try {
      new Receiver().run();
    } catch (IOException | RuntimeException | Error e) {
      closeBecause(e);
    } finally {
      close();
      joinWriter();
      try {
        handler.onClosed(this, cause.get());
      } catch (RuntimeException e) {
        log.error("The owner of the link to {} failed when it was told of its end", name, e);
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
      dropQueued();
    } finally {
      writing.unlock();
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  /** The reader thread's state. */
  private final class Receiver {

    /** Between position and limit: read from the socket, not yet used. */
    private final ByteBuffer received =
        ByteBuffer.allocateDirect(RECEIVE_BYTES).order(ByteOrder.LITTLE_ENDIAN).limit(0);

    private final CRC32C crc = new CRC32C();
    private ByteBuffer discard;
    private int framesBefore;

    void run() throws IOException {
      while (awaitBytes(FrameHeader.BYTES, true)) {
        FrameHeader header =
            FrameHeader.read(received, crc, framesBefore++, settings.maxFrameBytes());
        switch (header.type()) {
          case HEARTBEAT -> readHeartbeat(header);
          case VALUE -> readValue(header);
          default -> readFrame(header);
        }
      }
    }

    private void readHeartbeat(FrameHeader header) {
      if (header.length() != 0) {
        throw new ProtocolException("a HEARTBEAT frame has a payload");
      }
    }

    private void readFrame(FrameHeader header) throws IOException {
      PooledBuffer payload = pool.take(header.length());
      try {
        ByteBuffer bytes = payload.bytes();
        readInto(bytes);
        bytes.flip();
        crc.reset();
        crc.update(bytes);
        bytes.rewind();
        verify(header);
        if (!finishing) {
          handling = true;
          handler.onFrame(LinkConnection.this, header, payload);
          handled();
        }
      } finally {
        payload.release();
      }
    }

    private void readValue(FrameHeader header) throws IOException {
      if (header.length() < ValueHeader.BYTES) {
        throw new ProtocolException("a VALUE frame of " + header.length() + " bytes is too short");
      }
      awaitBytes(ValueHeader.BYTES, false);
      int start = received.position();
      ValueHeader value = ValueHeader.read(received, header.length());
      handling = true;
      ByteBuffer destination = finishing ? null : handler.valueDestination(header, value);
      handled();
      if (destination != null && destination.remaining() != value.length()) {
        throw new IllegalStateException(
            "the destination of a value has room for "
                + destination.remaining()
                + " bytes, not "
                + value.length());
      }
      crc.reset();
      updateCrc(received, start, start + ValueHeader.BYTES);
      if (destination == null) {
        discardBytes(value.length());
        verify(header);
      } else {
        int position = destination.position();
        readInto(destination);
        updateCrc(destination, position, destination.limit());
        verify(header);
        handler.onValue(header, value);
      }
    }

    /** The time that the handler took is not the peer's silence. */
    private void handled() {
      lastReceivedNanos = System.nanoTime();
      handling = false;
    }

    private void updateCrc(ByteBuffer buffer, int from, int to) {
      int position = buffer.position();
      int limit = buffer.limit();
      buffer.limit(to).position(from);
      crc.update(buffer);
      buffer.limit(limit).position(position);
    }

    private void verify(FrameHeader header) {
      int actual = (int) crc.getValue();
      if (actual != header.payloadChecksum()) {
        throw new DamagedFrameException(
            "damaged payload of a frame of type %s from %s: checksum is %08x, expected %08x"
                .formatted(header.type(), name, actual, header.payloadChecksum()));
      }
    }

    private void discardBytes(int count) throws IOException {
      if (discard == null) {
        discard = ByteBuffer.allocateDirect(DISCARD_BYTES);
      }
      int left = count;
      while (left > 0) {
        discard.clear().limit(Math.min(left, DISCARD_BYTES));
        left -= discard.remaining();
        readInto(discard);
        discard.flip();
        crc.update(discard);
      }
    }

    /** Fills {@code destination}, first with what was received already. */
    private void readInto(ByteBuffer destination) throws IOException {
      int ready = Math.min(received.remaining(), destination.remaining());
      if (ready > 0) {
        destination.put(destination.position(), received, received.position(), ready);
        destination.position(destination.position() + ready);
        received.position(received.position() + ready);
      }
      while (destination.hasRemaining()) {
        if (destination.remaining() < RECEIVE_BYTES) {
          // The rest of a short payload: read what follows it with the same call.
          int rest = destination.remaining();
          awaitBytes(rest, false);
          destination.put(destination.position(), received, received.position(), rest);
          destination.position(destination.position() + rest);
          received.position(received.position() + rest);
        } else if (readSome(destination) < 0) {
          throw new EOFException(closedInsideFrame());
        }
      }
    }

    /**
     * Waits until {@code count} bytes are in {@code received}; false: the peer has closed, as it
     * may between frames.
     */
    private boolean awaitBytes(int count, boolean betweenFrames) throws IOException {
      if (received.remaining() >= count) {
        return true;
      }
      received.compact();
      while (received.position() < count) {
        if (readSome(received) < 0) {
          if (!betweenFrames || received.position() > 0) {
            throw new EOFException(closedInsideFrame());
          }
          if (!finishing) {
            closeBecause(new EOFException(name + " closed the connection"));
          }
          return false;
        }
      }
      received.flip();
      return true;
    }

    private int readSome(ByteBuffer target) throws IOException {
      int count = channel.read(target);
      if (count > 0) {
        lastReceivedNanos = System.nanoTime();
        addReceived(count);
      }
      return count;
    }

    private String closedInsideFrame() {
      return name + " closed the connection in the middle of a frame";
    }
  }

  @SuppressWarnings("NonAtomicVolatileUpdate") // only the reader thread writes it
  private void addReceived(long count) {
    bytesReceived += count;
  }
}
