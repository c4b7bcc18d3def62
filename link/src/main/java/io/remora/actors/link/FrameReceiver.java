// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import io.remora.runtime.ProtocolException;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.zip.CRC32C;

/**
 * Reads the frames of a connection from its socket, checks them and hands them to the handler. Only
 * the thread that has the {@link ReadingRole} uses it, but for what is said to be for any thread.
 */
final class FrameReceiver {

  /** Small frames are read through this buffer; of longer ones at most this much is copied. */
  private static final int RECEIVE_BYTES = 8 * 1024;

  private static final int DISCARD_BYTES = 64 * 1024;

  private final SocketConnection connection;
  private final LinkChannel channel;
  private final MemorySharing sharing;
  private final LinkSettings settings;
  private final LinkConnection.Handler handler;
  private final BufferPool pool;

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

  private volatile long lastReceivedNanos = System.nanoTime();

  /** The handler is at work: what the peer sends meanwhile waits unread. */
  private volatile boolean handling;

  private volatile long bytesReceived;

  FrameReceiver(
      SocketConnection connection,
      LinkChannel channel,
      MemorySharing sharing,
      LinkSettings settings,
      LinkConnection.Handler handler) {
    this.connection = connection;
    this.channel = channel;
    this.sharing = sharing;
    this.settings = settings;
    this.handler = handler;
    this.pool = new BufferPool(settings.poolBytes());
  }

  /** Bytes read from the socket so far. For any thread. */
  long bytesReceived() {
    return bytesReceived;
  }

  /**
   * For how many nanoseconds the peer has been silent; 0 while the handler is at work. For any
   * thread.
   */
  long silence(long nowNanos) {
    return handling ? 0 : nowNanos - lastReceivedNanos;
  }

  /**
   * Reads until a frame is handled. Returns false if nothing more is there at present, or the peer
   * has ended its output; the next call continues.
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
          case HEARTBEAT -> isEmpty();
          case SHARED_MEMORY -> isEmpty() && readAnswer();
          case VALUE -> header.isShared() ? readSharedValue() : readValue();
          default -> header.isShared() ? readSharedFrame() : readFrame();
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

  private boolean isEmpty() {
    if (header.length() != 0) {
      throw new ProtocolException("a " + header.type() + " frame has a payload");
    }
    return true;
  }

  private boolean readAnswer() {
    sharing.answered(header.sequence() == FrameType.OPENED);
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
    deliver();
    return true;
  }

  private void deliver() {
    try {
      if (!connection.isFinishing()) {
        handling = true;
        handler.onFrame(connection, header, payload);
        handled();
      }
    } finally {
      release();
    }
  }

  private boolean readSharedFrame() throws IOException {
    if (!haveShared(0)) {
      return false;
    }
    payload = takeShared();
    header = header.ofPayload(payload.bytes().remaining());
    deliver();
    return true;
  }

  private boolean readSharedValue() throws IOException {
    if (!haveShared(ValueHeader.BYTES)) {
      return false;
    }
    ByteBuffer beginning = received.slice().order(ByteOrder.LITTLE_ENDIAN);
    received.position(received.position() + ValueHeader.BYTES);
    payload = takeShared();
    try {
      ByteBuffer bytes = payload.bytes();
      header = header.ofPayload(ValueHeader.BYTES + bytes.remaining());
      ByteBuffer target = destination(ValueHeader.read(beginning, header.length()));
      if (target != null) {
        target.put(bytes);
        sharing.check();
        handler.onValue(header, value);
      }
    } catch (InternalError e) {
      throw LinkMemory.gone(e);
    } finally {
      value = null;
      release();
    }
    return true;
  }

  /** Whether all that follows the header of a shared payload has arrived; it is right then. */
  private boolean haveShared(int before) throws IOException {
    int bytes = before + FrameHeader.PLACE_BYTES;
    if (header.length() != bytes) {
      throw new DamagedFrameException(
          "a %s frame in shared memory has %d bytes, not %d"
              .formatted(header.type(), header.length(), bytes));
    }
    if (!haveBytes(bytes)) {
      return false;
    }
    crc.reset();
    updateCrc(received, received.position(), received.position() + bytes);
    verify();
    return true;
  }

  /** The payload whose place has been received. */
  private PooledBuffer takeShared() {
    long position = received.getLong();
    long bytes = received.getLong();
    RingReader ring = sharing.reader();
    if (ring == null) {
      throw new ProtocolException(
          "a %s frame in shared memory, which the connection does not have"
              .formatted(header.type()));
    }
    if (bytes > settings.maxFrameBytes()) {
      throw new DamagedFrameException(
          "a payload of %d bytes in shared memory; the limit is %d (remora.link.max-frame-bytes)"
              .formatted(bytes, settings.maxFrameBytes()));
    }
    return ring.take(position, bytes);
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
    destination = destination(ValueHeader.read(received, header.length()));
    destinationStart = destination == null ? 0 : destination.position();
    discarded = 0;
    crc.reset();
    updateCrc(received, start, start + ValueHeader.BYTES);
    return true;
  }

  /** Where the bytes of this value go, or null. */
  private ByteBuffer destination(ValueHeader of) {
    value = of;
    handling = true;
    ByteBuffer target = connection.isFinishing() ? null : handler.valueDestination(header, of);
    handled();
    if (target != null && target.remaining() != of.length()) {
      throw new IllegalStateException(
          "the destination of a value has room for "
              + target.remaining()
              + " bytes, not "
              + of.length());
    }
    return target;
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
              .formatted(header.type(), connection.name(), actual, header.payloadChecksum()));
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
   * Reads what is there. Returns 0 if nothing is, and at the end of the peer's output, which closes
   * the connection.
   */
  @SuppressWarnings("NonAtomicVolatileUpdate") // only whoever reads writes bytesReceived
  private int readSome(ByteBuffer target) throws IOException {
    int count = channel.read(target);
    if (count < 0) {
      boolean betweenFrames = header == null && received.position() == 0;
      if (!betweenFrames) {
        throw new EOFException(
            connection.name() + " closed the connection in the middle of a frame");
      }
      connection.closeBecause(new EOFException(connection.name() + " closed the connection"));
      return 0;
    }
    if (count > 0) {
      lastReceivedNanos = System.nanoTime();
      bytesReceived += count;
    }
    return count;
  }
}
