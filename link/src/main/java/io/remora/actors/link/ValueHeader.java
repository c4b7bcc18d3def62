// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import io.remora.runtime.ProtocolException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * The 24 little-endian bytes at the start of a VALUE payload: {@code u64 request, u64 offset, u64
 * total}.
 *
 * @param request the read that this answers
 * @param offset the position of this chunk's bytes in the value
 * @param total bytes of the whole value
 * @param length bytes of this chunk (the frame's length less these 24)
 */
public record ValueHeader(long request, long offset, long total, int length) {

  /** Bytes of an encoded value header. */
  public static final int BYTES = 24;

  /** Throws when the chunk does not lie inside the value. */
  public ValueHeader {
    if (length < 0 || offset < 0 || total < 0 || offset > total - length) {
      throw new ProtocolException(
          "value chunk of %d bytes at %d lies outside a value of %d bytes"
              .formatted(length, offset, total));
    }
  }

  /** Writes the 24 bytes at {@code target}'s position. */
  public void writeTo(ByteBuffer target) {
    ByteOrder order = target.order();
    target.order(ByteOrder.LITTLE_ENDIAN).putLong(request).putLong(offset).putLong(total);
    target.order(order);
  }

  /** Reads the 24 bytes at the position of {@code source}, which is little-endian. */
  static ValueHeader read(ByteBuffer source, int frameLength) {
    return new ValueHeader(
        source.getLong(), source.getLong(), source.getLong(), frameLength - BYTES);
  }
}
