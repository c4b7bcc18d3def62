// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import io.remora.runtime.ProtocolException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.zip.CRC32C;

/**
 * The fixed 32 bytes before each payload, little-endian:
 *
 * <pre>
 *  0 u32 payload length     8 u64 session     24 u32 CRC32C of the payload
 *  4 u8  type              16 u64 sequence    28 u32 CRC32C of bytes 0 to 27
 *  5 u8  flags
 *  6 u16 protocol version
 * </pre>
 *
 * The header has its own checksum, so that a corrupt length is detected before it is used. The
 * checksum is XORed with the number of frames that the connection has carried before this one in
 * its direction. A frame that is missing, repeated or from another connection is therefore detected
 * like a damaged one.
 *
 * <p>With the flag {@link #SHARED}, most of the payload lies in {@link LinkMemory}. What follows
 * the header is the {@link ValueHeader} of a VALUE frame, and then the place of the other bytes:
 * {@code u64 position, u64 length}. Length and checksum of the header are those of what follows it.
 * The bytes in memory have no checksum, because memory does not lose or change them.
 *
 * <p>HELLO and REFUSED, the first frames of a connection, are read whatever their version, so that
 * two versions can report the difference to each other. This layout, and the fields of these two
 * messages, must not change.
 *
 * @param type the type of the payload
 * @param flags 0 or {@link #SHARED}
 * @param length bytes of payload after the header
 * @param session the session, 0 for the connection itself
 * @param sequence the batch's number, 0 for none
 * @param payloadChecksum CRC32C of the payload
 */
public record FrameHeader(
    FrameType type, int flags, int length, long session, long sequence, int payloadChecksum) {

  /** Bytes of an encoded header. */
  public static final int BYTES = 32;

  /** The flag of BATCH and VALUE frames whose bytes lie in shared memory. */
  static final int SHARED = 1;

  /** Bytes of a place in shared memory. */
  static final int PLACE_BYTES = 16;

  /**
   * The version of the protocol. Any change of frames or their payloads raises it, unless a peer
   * meets the change only after it has asked for it.
   */
  public static final int PROTOCOL_VERSION = 4;

  private static final int CHECKED_BYTES = 28;

  /**
   * Writes a header at {@code target}'s position and advances the position.
   *
   * @param target little-endian, at least {@link #BYTES} remaining
   * @param index how many frames the connection has carried before
   */
  static void write(
      ByteBuffer target,
      CRC32C crc,
      int index,
      FrameType type,
      int flags,
      int length,
      long session,
      long sequence,
      int payloadChecksum) {
    int start = target.position();
    target
        .putInt(length)
        .put(type.code())
        .put((byte) flags)
        .putShort((short) PROTOCOL_VERSION)
        .putLong(session)
        .putLong(sequence)
        .putInt(payloadChecksum);
    target.putInt(checksum(target, start, crc) ^ index);
  }

  /**
   * Writes this header at {@code target}'s position (any byte order) and advances the position.
   *
   * @param index how many frames the connection has carried before
   */
  public void writeTo(ByteBuffer target, int index) {
    ByteOrder order = target.order();
    write(
        target.order(ByteOrder.LITTLE_ENDIAN),
        new CRC32C(),
        index,
        type,
        flags,
        length,
        session,
        sequence,
        payloadChecksum);
    target.order(order);
  }

  /**
   * Reads a header at {@code source}'s position (any byte order) and advances the position.
   *
   * @param index how many frames the connection has carried before
   * @throws DamagedFrameException if it is damaged, or not the frame with this index
   * @throws ProtocolException if it is of another version, of an unknown type or announces more
   *     than {@code maxLength} bytes
   */
  public static FrameHeader readFrom(ByteBuffer source, int index, int maxLength) {
    ByteOrder order = source.order();
    try {
      return read(source.order(ByteOrder.LITTLE_ENDIAN), new CRC32C(), index, maxLength);
    } finally {
      source.order(order);
    }
  }

  /** As {@link #readFrom} with the caller's checksum object; {@code source} is little-endian. */
  static FrameHeader read(ByteBuffer source, CRC32C crc, int index, int maxLength) {
    int start = source.position();
    int expected = source.getInt(start + CHECKED_BYTES);
    int actual = checksum(source, start, crc) ^ index;
    if (expected != actual) {
      if (TlsChannel.looksLikeTls(source, start)) {
        throw new ProtocolException(
            "the peer speaks TLS, but this side does not: set remora.link.tls (mode = on, and"
                + " certificates) here, or mode = off there");
      }
      throw new DamagedFrameException(
          "damaged frame header: checksum of frame %s is %08x, expected %08x"
              .formatted(Integer.toUnsignedString(index), actual, expected));
    }
    int version = source.getShort(start + 6) & 0xffff;
    byte code = source.get(start + 4);
    if (version != PROTOCOL_VERSION
        && code != FrameType.HELLO.code()
        && code != FrameType.REFUSED.code()) {
      throw new ProtocolException(
          "the peer speaks link protocol version "
              + version
              + ", this side "
              + PROTOCOL_VERSION
              + ": use the same Remora version on both");
    }
    FrameType type = FrameType.ofCode(code);
    int flags = source.get(start + 5) & 0xff;
    boolean known = flags == SHARED && (type == FrameType.BATCH || type == FrameType.VALUE);
    if (flags != 0 && !known) {
      throw new ProtocolException(
          "unknown flags 0x%02x in a %s frame of protocol version %d"
              .formatted(flags, type, version));
    }
    int length = source.getInt(start);
    if (length < 0 || length > maxLength) {
      throw new ProtocolException(
          "a "
              + type
              + " frame announces "
              + Integer.toUnsignedString(length)
              + " bytes; the limit is "
              + maxLength
              + " (remora.link.max-frame-bytes)");
    }
    FrameHeader header =
        new FrameHeader(
            type,
            flags,
            length,
            source.getLong(start + 8),
            source.getLong(start + 16),
            source.getInt(start + 24));
    source.position(start + BYTES);
    return header;
  }

  /** Whether the payload lies in shared memory. */
  boolean isShared() {
    return flags == SHARED;
  }

  /** The header of the whole payload, when it was found in shared memory. */
  FrameHeader ofPayload(int bytes) {
    return new FrameHeader(type, 0, bytes, session, sequence, payloadChecksum);
  }

  private static int checksum(ByteBuffer bytes, int start, CRC32C crc) {
    int position = bytes.position();
    int limit = bytes.limit();
    crc.reset();
    bytes.limit(start + CHECKED_BYTES).position(start);
    crc.update(bytes);
    bytes.limit(limit).position(position);
    return (int) crc.getValue();
  }
}
