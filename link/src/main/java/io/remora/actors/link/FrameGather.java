// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.Queue;
import java.util.zip.CRC32C;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The frames of one gathering write to a connection's socket. All memory is reused. Only the thread
 * that holds the connection's lock for writing uses it, but for what is said to be for any thread.
 */
final class FrameGather {

  private static final Logger log = LoggerFactory.getLogger(FrameGather.class);

  /** Bounds of one gathering write. */
  private static final int GATHER_FRAMES = 64;

  private static final long GATHER_BYTES = 4L << 20;

  /** From this size on a payload goes through shared memory, if there is any. */
  static final int SHARED_FROM = 64 * 1024;

  /** Room for a header, and for what follows it if the payload lies in shared memory. */
  private static final int SLOT_BYTES = 128;

  private final Queue<OutboundSource> queue;
  private final LinkChannel channel;
  private final MemorySharing sharing;
  private final LinkSettings settings;
  private final String name;
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

  private volatile long bytesSent;
  private volatile long lastSentNanos = System.nanoTime();

  /**
   * @param queue where to take frames from
   * @param name who is at the other end, for the log
   */
  FrameGather(
      Queue<OutboundSource> queue,
      LinkChannel channel,
      MemorySharing sharing,
      LinkSettings settings,
      String name) {
    this.queue = queue;
    this.channel = channel;
    this.sharing = sharing;
    this.settings = settings;
    this.name = name;
    ByteBuffer slab = ByteBuffer.allocateDirect(GATHER_FRAMES * SLOT_BYTES);
    for (int i = 0; i < GATHER_FRAMES; i++) {
      headers[i] = slab.slice(i * SLOT_BYTES, SLOT_BYTES).order(ByteOrder.LITTLE_ENDIAN);
    }
  }

  /** Whether nothing is left of the last write. For any thread. */
  boolean isWritten() {
    return written;
  }

  /** Whether all output was taken from the queue. For any thread. */
  boolean isEndOfOutput() {
    return endOfOutput;
  }

  /** Bytes written to the socket so far. For any thread. */
  long bytesSent() {
    return bytesSent;
  }

  /** When a write was finished last, as {@link System#nanoTime}. For any thread. */
  long lastSentNanos() {
    return lastSentNanos;
  }

  /**
   * Takes what waits; false if there is nothing to write.
   *
   * @param mayShare whether payloads may go through shared memory; not on a thread that may be
   *     interrupted, because an interrupt closes the file
   */
  boolean collect(boolean mayShare) {
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
        add(frame, mayShare);
      }
    }
    return frameCount > 0;
  }

  private void add(OutboundFrame frame, boolean mayShare) {
    ByteBuffer slot = headers[frameCount];
    frames[frameCount++] = frame;
    ByteBuffer[] parts = frame.payload();
    long length = 0;
    for (ByteBuffer part : parts) {
      length += part.remaining();
    }
    if (length > settings.maxFrameBytes()) {
      throw new IllegalArgumentException(
          "a "
              + frame.type()
              + " frame of "
              + length
              + " bytes is over the limit of "
              + settings.maxFrameBytes()
              + " (remora.link.max-frame-bytes)");
    }
    byteCount += FrameHeader.BYTES + length;
    if (mayShare && length >= SHARED_FROM && share(frame, slot, (int) length)) {
      return;
    }
    push(slot);
    payloadCrc.reset();
    for (ByteBuffer part : parts) {
      int position = part.position();
      payloadCrc.update(part);
      part.position(position);
      push(part);
    }
    writeHeader(slot, frame, 0, (int) length);
    slot.flip();
  }

  private void writeHeader(ByteBuffer slot, OutboundFrame frame, int flags, int length) {
    FrameHeader.write(
        slot.clear(),
        headerCrc,
        framesBefore++,
        frame.type(),
        flags,
        length,
        frame.session(),
        frame.sequence(),
        (int) payloadCrc.getValue());
  }

  /** Puts the payload into shared memory, and only its place into the frame; false if it cannot. */
  private boolean share(OutboundFrame frame, ByteBuffer slot, int length) {
    RingWriter ring = sharing.writer();
    boolean value = frame.type() == FrameType.VALUE;
    if (ring == null || !(value || frame.type() == FrameType.BATCH)) {
      return false;
    }
    ByteBuffer[] parts = frame.payload();
    // The header of a value is a part of its own.
    int inline = value ? parts[0].remaining() : 0;
    if (value && inline != ValueHeader.BYTES) {
      return false;
    }
    long position = ring.put(parts, value ? 1 : 0, length - inline);
    if (position == RingWriter.NO_ROOM) {
      return false;
    }
    slot.clear().position(FrameHeader.BYTES);
    if (value) {
      slot.put(parts[0].duplicate());
    }
    slot.putLong(position).putLong(length - inline);
    int end = slot.position();
    payloadCrc.reset();
    payloadCrc.update(slot.limit(end).position(FrameHeader.BYTES));
    writeHeader(slot, frame, FrameHeader.SHARED, end - FrameHeader.BYTES);
    push(slot.position(0).limit(end));
    return true;
  }

  private void push(ByteBuffer buffer) {
    if (bufferCount == buffers.length) {
      buffers = Arrays.copyOf(buffers, 2 * buffers.length);
    }
    buffers[bufferCount++] = buffer;
  }

  /** Writes what the socket takes; the rest stays for the next call. */
  @SuppressWarnings("NonAtomicVolatileUpdate") // only whoever writes to the socket changes it
  void write() throws IOException {
    while (first < bufferCount) {
      long count = channel.write(buffers, first, bufferCount - first);
      bytesSent += count;
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

  /** Marks where the output ends. */
  static final class EndOfOutput implements OutboundSource {
    @Override
    public OutboundFrame nextFrame() {
      throw new IllegalStateException("no frame");
    }
  }
}
