// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.io.IOException;
import java.nio.ByteBuffer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * This end's ring to its peer, in {@link LinkMemory}. Each payload lies in one piece. Positions
 * count the bytes of all rounds, so that a position names a payload. Only for the thread that
 * writes to the connection.
 */
final class RingWriter {

  /** There is no room at present, or no memory. */
  static final long NO_ROOM = -1;

  private static final Logger log = LoggerFactory.getLogger(RingWriter.class);

  /** Payloads begin at multiples of this: a cache line. */
  private static final int ALIGNMENT = 64;

  private final LinkMemory memory;
  private final int ring;
  private final int size;
  private final int start;
  private long position;
  private long returned;

  /** The ring has memory up to here. */
  private int allocated;

  private boolean exhausted;

  RingWriter(LinkMemory memory, int ring) {
    this.memory = memory;
    this.ring = ring;
    this.size = memory.ringBytes();
    this.start = memory.ringStart(ring);
  }

  /**
   * Where the next payload begins: at the end of the one before, or in the next round if it would
   * not fit into this one. Both ends compute it.
   */
  static long next(long end, int bytes, int size) {
    long aligned = (end + ALIGNMENT - 1) & -ALIGNMENT;
    int offset = (int) (aligned % size);
    return offset + bytes <= size ? aligned : aligned + size - offset;
  }

  /**
   * Copies a payload into the ring.
   *
   * @param parts its parts from index {@code first} on; their positions stay
   * @param bytes their sum
   * @return the payload's position, or {@link #NO_ROOM}
   * @throws DamagedFrameException if the peer has given back what it was not given
   */
  long put(ByteBuffer[] parts, int first, int bytes) {
    if (exhausted || bytes > size) {
      return NO_ROOM;
    }
    long at = next(position, bytes, size);
    if (!hasRoom(at + bytes)) {
      return NO_ROOM;
    }
    int offset = (int) (at % size);
    try {
      copy(parts, first, offset, offset + bytes <= allocated);
    } catch (IOException e) {
      exhausted = true;
      log.warn(
          "There is no more shared memory for a link, which uses its TCP connection alone from now"
              + " on: {} ({} of {} bytes were in use)",
          e.getMessage(),
          allocated,
          size);
      return NO_ROOM;
    } catch (InternalError e) {
      throw LinkMemory.gone(e);
    }
    allocated = Math.max(allocated, offset + bytes);
    position = at + bytes;
    return at;
  }

  /** Whether all bytes up to {@code end} may be written. */
  private boolean hasRoom(long end) {
    if (end - returned <= size || returned == position) {
      return true;
    }
    long now = memory.returned(ring);
    if (now < returned || now > position) {
      throw new DamagedFrameException(
          "the peer has given back shared memory up to %d, but has got it from %d to %d"
              .formatted(now, returned, position));
    }
    returned = now;
    return end - returned <= size || returned == position;
  }

  /**
   * Memory that the file does not have yet is written by calls of the operating system, which fail
   * if there is none; a write to the mapped memory would end the process.
   */
  private void copy(ByteBuffer[] parts, int first, int offset, boolean mapped) throws IOException {
    int to = start + offset;
    for (int i = first; i < parts.length; i++) {
      ByteBuffer part = parts[i];
      int count = part.remaining();
      if (mapped) {
        memory.mapped().put(to, part, part.position(), count);
      } else {
        ByteBuffer rest = part.duplicate();
        while (rest.hasRemaining()) {
          memory.channel().write(rest, to + rest.position() - part.position());
        }
      }
      to += count;
    }
    if (mapped) {
      memory.check();
    }
  }
}
