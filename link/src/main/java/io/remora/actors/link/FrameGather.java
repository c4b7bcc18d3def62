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

  private final Queue<OutboundSource> queue;
  private final LinkChannel channel;
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
      Queue<OutboundSource> queue, LinkChannel channel, LinkSettings settings, String name) {
    this.queue = queue;
    this.channel = channel;
    this.settings = settings;
    this.name = name;
    ByteBuffer slab = ByteBuffer.allocateDirect(GATHER_FRAMES * FrameHeader.BYTES);
    for (int i = 0; i < GATHER_FRAMES; i++) {
      headers[i] =
          slab.slice(i * FrameHeader.BYTES, FrameHeader.BYTES).order(ByteOrder.LITTLE_ENDIAN);
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
