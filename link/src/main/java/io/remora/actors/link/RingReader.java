// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.nio.ByteOrder;
import java.util.ArrayDeque;

/**
 * The peer's ring to this end, in {@link LinkMemory}. Payloads are taken in order, and may be
 * released in any order and on any thread. The peer writes again where all payloads up to there are
 * released.
 */
final class RingReader {

  private final LinkMemory memory;
  private final int ring;
  private final int size;
  private final int start;

  // Guarded by this.
  private final ArrayDeque<Place> places = new ArrayDeque<>();
  private long end;
  private long returned;

  private static final class Place {

    final long end;
    boolean released;

    Place(long end) {
      this.end = end;
    }
  }

  RingReader(LinkMemory memory, int ring) {
    this.memory = memory;
    this.ring = ring;
    this.size = memory.ringBytes();
    this.start = memory.ringStart(ring);
  }

  LinkMemory memory() {
    return memory;
  }

  /**
   * Takes the next payload.
   *
   * @param position where the peer says it is
   * @param bytes how many bytes the peer says it has
   * @return the bytes where they lie, with one hold
   * @throws DamagedFrameException if the payload cannot be there
   */
  PooledBuffer take(long position, long bytes) {
    Place place;
    synchronized (this) {
      boolean fits =
          bytes > 0
              && bytes <= size
              && position == RingWriter.next(end, (int) bytes, size)
              && (position + bytes - returned <= size || returned == end);
      if (!fits) {
        throw new DamagedFrameException(
            "a payload of %s bytes at %s of a ring of %d bytes, after %d with %d given back"
                .formatted(
                    Long.toUnsignedString(bytes),
                    Long.toUnsignedString(position),
                    size,
                    end,
                    returned));
      }
      end = position + bytes;
      place = new Place(end);
      places.add(place);
    }
    memory.hold();
    int offset = start + (int) (position % size);
    return new PooledBuffer(
        memory.mapped().slice(offset, (int) bytes).order(ByteOrder.LITTLE_ENDIAN),
        () -> release(place));
  }

  private void release(Place place) {
    synchronized (this) {
      place.released = true;
      boolean moved = false;
      while (!places.isEmpty() && places.peekFirst().released) {
        returned = places.removeFirst().end;
        moved = true;
      }
      if (moved) {
        memory.setReturned(ring, returned);
      }
    }
    memory.release();
  }
}
