// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/** Bytes in the format of {@code wire.h}, which grow at their end. Not thread-safe. */
public final class WireWriter {
  private final ByteArrayOutputStream out = new ByteArrayOutputStream();

  /** The number of bytes. */
  public int size() {
    return out.size();
  }

  /** Adds one byte, the lowest of the value. */
  public WireWriter octet(int value) {
    out.write(value);
    return this;
  }

  /** Adds an unsigned integer. */
  public WireWriter varint(long value) {
    long rest = value;
    while ((rest & ~0x7FL) != 0) {
      out.write((int) (rest & 0x7F) | 0x80);
      rest >>>= 7;
    }
    out.write((int) rest);
    return this;
  }

  /** Adds a signed integer. */
  public WireWriter zigzag(long value) {
    return varint((value << 1) ^ (value >> 63));
  }

  /** Adds the lowest bytes of the value, the lowest first. */
  public WireWriter littleEndian(long value, int bytes) {
    for (int i = 0; i < bytes; i++) {
      out.write((int) (value >> (8 * i)));
    }
    return this;
  }

  /** Adds bytes as they are. */
  public WireWriter raw(byte[] bytes) {
    out.writeBytes(bytes);
    return this;
  }

  /** Adds the bytes from position to limit as they are. The position does not change. */
  public WireWriter raw(ByteBuffer bytes) {
    byte[] copy = new byte[bytes.remaining()];
    bytes.duplicate().get(copy);
    return raw(copy);
  }

  /** Adds so many zeros. */
  public WireWriter zeros(int bytes) {
    return raw(new byte[bytes]);
  }

  /** Adds a length, then the bytes. */
  public WireWriter block(byte[] bytes) {
    return varint(bytes.length).raw(bytes);
  }

  /** Adds a length, then the text in UTF-8. */
  public WireWriter text(String text) {
    return block(text.getBytes(StandardCharsets.UTF_8));
  }

  /** Drops all bytes. */
  public void clear() {
    out.reset();
  }

  /** A copy of the bytes. */
  public byte[] toByteArray() {
    return out.toByteArray();
  }

  /** A copy of the bytes in a direct buffer. */
  public ByteBuffer toDirectBuffer() {
    byte[] bytes = out.toByteArray();
    return ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.LITTLE_ENDIAN).put(bytes).flip();
  }
}
