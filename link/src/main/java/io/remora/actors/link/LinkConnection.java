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
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BooleanSupplier;
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

  /** Small frames are read through this buffer; of longer ones at most this much is copied. */
  private static final int RECEIVE_BYTES = 8 * 1024;

  private static final int DISCARD_BYTES = 64 * 1024;

  /** Bounds of one gathering write. */
  private static final int GATHER_FRAMES = 64;

  private static final long GATHER_BYTES = 4L << 20;

  /** How long the reader thread leaves reading to the threads that wait. */
  private static final long LEND_NANOS = 1_000_000;

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

  /** Held by whoever reads the socket; guards {@link #receiver}. */
  private final ReentrantLock reading = new ReentrantLock();

  private final Receiver receiver = new Receiver();

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

  private volatile boolean writerWaits;
  private volatile boolean finishing;
  private volatile long lastSentNanos = System.nanoTime();
  private volatile long lastReceivedNanos = System.nanoTime();

  /** The reader is with the handler: what the peer sends meanwhile waits unread. */
  private volatile boolean handling;

  private volatile long bytesSent;
  private volatile long bytesReceived;
  private volatile ScheduledFuture<?> watch;

  // The reader thread's.
  private boolean started;

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
      if (!gather.isWritten() || gather.collect()) {
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
    if (!queue.isEmpty() || gather.endOfOutput || !gather.isWritten()) {
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
    LockSupport.unpark(reader);
  }

  /** Whether the connection has not begun to close. */
  public boolean isOpen() {
    return !closing.get();
  }

  /** Who is at the other end, as given to {@link #start}. */
  public String name() {
    return name;
  }

  /** Whether {@link #sendNow} never blocks, so that an interrupt cannot hurt the connection. */
  public boolean sendsWithoutBlocking() {
    return !channel.blocks();
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
      if (gather.isWritten() && !gather.collect()) {
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
    // The first buffer that is not yet written.
    private int first;
    private volatile boolean written = true;
    private volatile boolean endOfOutput;

    Gather() {
      ByteBuffer slab = ByteBuffer.allocateDirect(GATHER_FRAMES * FrameHeader.BYTES);
      for (int i = 0; i < GATHER_FRAMES; i++) {
        headers[i] =
            slab.slice(i * FrameHeader.BYTES, FrameHeader.BYTES).order(ByteOrder.LITTLE_ENDIAN);
      }
    }

    /** Whether nothing is left of the last write. */
    boolean isWritten() {
      return written;
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

    /** Writes what the socket takes; the rest stays for the next call. */
    void write() throws IOException {
      while (first < bufferCount) {
        long count = channel.write(buffers, first, bufferCount - first);
        addSent(count);
        while (first < bufferCount && !buffers[first].hasRemaining()) {
          first++;
        }
        if (count == 0 && first < bufferCount) {
          written = false;
          return;
        }
      }
      lastSentNanos = System.nanoTime();
      release();
    }

    void release() {
      written = true;
      first = 0;
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
      while (!closing.get() && awaitTurn()) {
        if (reading.tryLock()) {
          try {
            readUntilLent();
          } finally {
            reading.unlock();
          }
        }
      }
    } catch (IOException | RuntimeException | Error e) {
      closeBecause(e);
    } finally {
      close();
      joinWriter();
      joinReaders();
      try {
        handler.onClosed(this, cause.get());
      } catch (RuntimeException e) {
        log.error("The owner of the link to {} failed when it was told of its end", name, e);
      }
    }
  }

  /** Reads on the reader thread until another thread is to read, or the connection is closed. */
  private void readUntilLent() throws IOException {
    lend = false;
    while (!closing.get()) {
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
    while (!closing.get()) {
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
        if (reading.isLocked() && before == loans && !readerCalled && !closing.get()) {
          LockSupport.park(this);
        }
        readerWaits = false;
      }
    }
    return false;
  }

  /**
   * Waits until {@code done} is done, for at most {@code nanos}. Meanwhile this thread reads the
   * socket, if it can without blocking and no other thread does. Whether it is done, the caller
   * asks it.
   *
   * @throws InterruptedException if the thread is interrupted; the connection stays open
   */
  public void await(Future<?> done, long nanos) throws InterruptedException {
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

  /**
   * Reads the socket on this thread until {@code done} is true, for at most {@code nanos}. Returns
   * early, with the reader thread reading again, when the thread is interrupted or the connection
   * is closed. Not for threads that hold a lock that the {@link Handler} takes.
   *
   * @return whether {@code done} is true; false at once if another thread reads, or reading would
   *     block
   */
  @SuppressWarnings("NonAtomicVolatileUpdate") // loans: only with the lock for reading
  public boolean readUntil(BooleanSupplier done, long nanos) {
    if (done.getAsBoolean()) {
      return true;
    }
    if (channel.blocks()
        || closing.get()
        || reading.isHeldByCurrentThread()
        || !reading.tryLock()) {
      return false;
    }
    boolean finished = false;
    try {
      loans++;
      finished = readHere(done, System.nanoTime() + nanos);
    } catch (IOException | RuntimeException | Error e) {
      closeBecause(e);
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
      if (left <= 0 || closing.get() || Thread.currentThread().isInterrupted()) {
        return false;
      }
      if (!receiver.advance()) {
        channel.awaitReadable(TimeUnit.NANOSECONDS.toMillis(left + 999_999));
      }
    }
    return true;
  }

  /**
   * Makes the reader thread leave the next frames to a thread that is about to call {@link
   * #readUntil}. Only for the {@link Handler}, while it handles a frame.
   */
  public void lend() {
    lend = !channel.blocks();
  }

  /** Waits for the threads that still read the closed connection. */
  private void joinReaders() {
    reading.lock();
    try {
      receiver.release();
    } finally {
      reading.unlock();
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

  /** What has been received. Guarded by {@link #reading}. */
  private final class Receiver {

    /** Between position and limit: read from the socket, not yet used. */
    private final ByteBuffer received =
        ByteBuffer.allocateDirect(RECEIVE_BYTES).order(ByteOrder.LITTLE_ENDIAN).limit(0);

    private final CRC32C crc = new CRC32C();
    private ByteBuffer discard;
    private int framesBefore;

    // The frame under way.
    private FrameHeader header;
    private PooledBuffer payload;
    private ValueHeader value;
    private ByteBuffer destination;
    private int destinationStart;
    private int discarded;

    /**
     * Reads until a frame is handled. Returns false if nothing more is there at present, or the
     * peer has ended its output; the next call continues.
     */
    boolean advance() throws IOException {
      if (header == null) {
        if (!haveBytes(FrameHeader.BYTES)) {
          return false;
        }
        header = FrameHeader.read(received, crc, framesBefore++, settings.maxFrameBytes());
      }
      boolean complete =
          switch (header.type()) {
            case HEARTBEAT -> readHeartbeat();
            case VALUE -> readValue();
            default -> readFrame();
          };
      if (complete) {
        header = null;
      }
      return complete;
    }

    /** Gives back the buffer of a frame that did not arrive whole. */
    void release() {
      PooledBuffer rest = payload;
      payload = null;
      if (rest != null) {
        rest.release();
      }
    }

    private boolean readHeartbeat() {
      if (header.length() != 0) {
        throw new ProtocolException("a HEARTBEAT frame has a payload");
      }
      return true;
    }

    private boolean readFrame() throws IOException {
      if (payload == null) {
        payload = pool.take(header.length());
      }
      ByteBuffer bytes = payload.bytes();
      if (!readInto(bytes)) {
        return false;
      }
      bytes.flip();
      crc.reset();
      crc.update(bytes);
      bytes.rewind();
      verify();
      try {
        if (!finishing) {
          handling = true;
          handler.onFrame(LinkConnection.this, header, payload);
          handled();
        }
      } finally {
        release();
      }
      return true;
    }

    private boolean readValue() throws IOException {
      if (value == null && !readValueHeader()) {
        return false;
      }
      if (destination == null) {
        if (!discardRest()) {
          return false;
        }
        verify();
      } else {
        if (!readInto(destination)) {
          return false;
        }
        updateCrc(destination, destinationStart, destination.limit());
        verify();
        handler.onValue(header, value);
      }
      value = null;
      destination = null;
      return true;
    }

    private boolean readValueHeader() throws IOException {
      if (header.length() < ValueHeader.BYTES) {
        throw new ProtocolException("a VALUE frame of " + header.length() + " bytes is too short");
      }
      if (!haveBytes(ValueHeader.BYTES)) {
        return false;
      }
      int start = received.position();
      value = ValueHeader.read(received, header.length());
      handling = true;
      destination = finishing ? null : handler.valueDestination(header, value);
      handled();
      if (destination != null && destination.remaining() != value.length()) {
        throw new IllegalStateException(
            "the destination of a value has room for "
                + destination.remaining()
                + " bytes, not "
                + value.length());
      }
      destinationStart = destination == null ? 0 : destination.position();
      discarded = 0;
      crc.reset();
      updateCrc(received, start, start + ValueHeader.BYTES);
      return true;
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

    private void verify() {
      int actual = (int) crc.getValue();
      if (actual != header.payloadChecksum()) {
        throw new DamagedFrameException(
            "damaged payload of a frame of type %s from %s: checksum is %08x, expected %08x"
                .formatted(header.type(), name, actual, header.payloadChecksum()));
      }
    }

    private boolean discardRest() throws IOException {
      if (discard == null) {
        discard = ByteBuffer.allocateDirect(DISCARD_BYTES);
      }
      while (discarded < value.length()) {
        discard.clear().limit(Math.min(value.length() - discarded, DISCARD_BYTES));
        if (take(discard) == 0 && readSome(discard) == 0) {
          return false;
        }
        discarded += discard.position();
        discard.flip();
        crc.update(discard);
      }
      return true;
    }

    /** Moves received bytes to {@code target}; returns how many. */
    private int take(ByteBuffer target) {
      int count = Math.min(received.remaining(), target.remaining());
      if (count > 0) {
        target.put(target.position(), received, received.position(), count);
        target.position(target.position() + count);
        received.position(received.position() + count);
      }
      return count;
    }

    /** Fills {@code target}, first with what was received already; false if more is to come. */
    private boolean readInto(ByteBuffer target) throws IOException {
      take(target);
      while (target.hasRemaining()) {
        if (target.remaining() < RECEIVE_BYTES) {
          // The rest of a short payload: read what follows it with the same call.
          received.clear();
          int count = readSome(received);
          received.flip();
          if (count == 0) {
            return false;
          }
          take(target);
        } else if (readSome(target) == 0) {
          return false;
        }
      }
      return true;
    }

    /** Whether {@code count} bytes are in {@code received}, after reading what is there. */
    private boolean haveBytes(int count) throws IOException {
      if (received.remaining() >= count) {
        return true;
      }
      received.compact();
      try {
        while (received.position() < count) {
          if (readSome(received) == 0) {
            return false;
          }
        }
      } finally {
        received.flip();
      }
      return true;
    }

    /**
     * Reads what is there. Returns 0 if nothing is, and at the end of the peer's output, which
     * closes the connection.
     */
    private int readSome(ByteBuffer target) throws IOException {
      int count = channel.read(target);
      if (count < 0) {
        boolean betweenFrames = header == null && received.position() == 0;
        if (!betweenFrames) {
          throw new EOFException(name + " closed the connection in the middle of a frame");
        }
        closeBecause(new EOFException(name + " closed the connection"));
        return 0;
      }
      if (count > 0) {
        lastReceivedNanos = System.nanoTime();
        addReceived(count);
      }
      return count;
    }
  }

  @SuppressWarnings("NonAtomicVolatileUpdate") // only whoever reads writes it
  private void addReceived(long count) {
    bytesReceived += count;
  }
}
