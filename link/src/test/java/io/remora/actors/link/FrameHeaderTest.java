// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.runtime.ProtocolException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.zip.CRC32C;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

@Tag("critical")
class FrameHeaderTest {

  private static final int LIMIT = 1 << 20;

  @ParameterizedTest
  @EnumSource(FrameType.class)
  void comesBackAsWritten(FrameType type) {
    FrameHeader header = new FrameHeader(type, 0, 4711, Long.MIN_VALUE + 3, -1L, 0xCAFEBABE);

    ByteBuffer bytes = encode(header);

    assertThat(bytes.remaining()).isEqualTo(FrameHeader.BYTES);
    assertThat(FrameHeader.readFrom(bytes, 0, LIMIT)).isEqualTo(header);
    assertThat(bytes.hasRemaining()).isFalse();
  }

  @Test
  void hasTheDocumentedLayout() {
    ByteBuffer bytes =
        encode(new FrameHeader(FrameType.BATCH, 0, 0x01020304, 5, 6, 7))
            .order(ByteOrder.LITTLE_ENDIAN);

    assertThat(bytes.getInt(0)).isEqualTo(0x01020304);
    assertThat(bytes.get(4)).isEqualTo((byte) 8);
    assertThat(bytes.get(5)).isZero();
    assertThat(bytes.getShort(6)).isEqualTo((short) FrameHeader.PROTOCOL_VERSION);
    assertThat(bytes.getLong(8)).isEqualTo(5);
    assertThat(bytes.getLong(16)).isEqualTo(6);
    assertThat(bytes.getInt(24)).isEqualTo(7);
    CRC32C crc = new CRC32C();
    crc.update(bytes.slice(0, 28));
    assertThat(bytes.getInt(28)).isEqualTo((int) crc.getValue());
  }

  @Test
  void noticesEveryFlippedBit() {
    for (int bit = 0; bit < FrameHeader.BYTES * 8; bit++) {
      ByteBuffer bytes = encode(new FrameHeader(FrameType.ACK, 0, 100, 1, 2, 3));
      bytes.put(bit / 8, (byte) (bytes.get(bit / 8) ^ 1 << bit % 8));

      assertThatThrownBy(() -> FrameHeader.readFrom(bytes, 0, LIMIT))
          .as("bit %d", bit)
          .isInstanceOf(ProtocolException.class)
          .hasMessageContaining("damaged frame header");
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {LIMIT + 1, Integer.MAX_VALUE, -1, Integer.MIN_VALUE})
  void refusesMoreBytesThanTheLimit(int length) {
    ByteBuffer bytes = encode(new FrameHeader(FrameType.BATCH, 0, length, 1, 2, 3));

    assertThatThrownBy(() -> FrameHeader.readFrom(bytes, 0, LIMIT))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining(Integer.toUnsignedString(length))
        .hasMessageContaining("remora.link.max-frame-bytes");
  }

  @Test
  void refusesUnknownTypesVersionsAndFlags() {
    assertThatThrownBy(() -> FrameHeader.readFrom(patched(4, (byte) 99), 0, LIMIT))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("unknown frame type 99");
    assertThatThrownBy(() -> FrameHeader.readFrom(patched(4, (byte) -1), 0, LIMIT))
        .isInstanceOf(ProtocolException.class);
    assertThatThrownBy(() -> FrameHeader.readFrom(patched(6, (byte) 99), 0, LIMIT))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("version 99, this side " + FrameHeader.PROTOCOL_VERSION);
    assertThatThrownBy(() -> FrameHeader.readFrom(patched(5, (byte) 1), 0, LIMIT))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("unknown flags");
  }

  @Test
  void refusesValueChunksOutsideTheirValue() {
    assertThatThrownBy(() -> new ValueHeader(1, 90, 100, 11)).isInstanceOf(ProtocolException.class);
    assertThatThrownBy(() -> new ValueHeader(1, -1, 100, 1)).isInstanceOf(ProtocolException.class);
    assertThatThrownBy(() -> new ValueHeader(1, Long.MAX_VALUE, Long.MAX_VALUE, 1))
        .isInstanceOf(ProtocolException.class);
    assertThat(new ValueHeader(1, 90, 100, 10).length()).isEqualTo(10);
  }

  private static ByteBuffer encode(FrameHeader header) {
    ByteBuffer bytes = ByteBuffer.allocateDirect(FrameHeader.BYTES);
    header.writeTo(bytes, 0);
    return bytes.flip();
  }

  /** A header with another byte and the right checksum. */
  private static ByteBuffer patched(int index, byte value) {
    ByteBuffer bytes =
        encode(new FrameHeader(FrameType.ACK, 0, 100, 1, 2, 3)).order(ByteOrder.LITTLE_ENDIAN);
    bytes.put(index, value);
    CRC32C crc = new CRC32C();
    crc.update(bytes.slice(0, 28));
    return bytes.putInt(28, (int) crc.getValue());
  }
}
