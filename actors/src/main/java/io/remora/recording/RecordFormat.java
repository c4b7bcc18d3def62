// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.recording;

import io.remora.actors.internal.Answers;
import io.remora.actors.internal.Answers.Check;
import io.remora.runtime.ProtocolException;
import java.nio.BufferUnderflowException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.zip.CRC32C;

/**
 * The bytes of a recording, little-endian: the magic, the version of this format, and frames. A
 * frame is the length of its payload (4 bytes), its kind (1), a checksum of the frame's offset in
 * the file, its length and its kind (4), the payload, and a checksum of the payload (4). Checksums
 * are CRC-32C. So a length that is damaged is not mistaken for a file that was cut.
 */
final class RecordFormat {

  static final long MAGIC = 0x0A0D41524F4D4552L; // "REMORA\r\n"
  static final int VERSION = 1;
  static final int PREAMBLE_BYTES = 12;
  static final int FRAME_HEADER_BYTES = 9;
  static final int CHECKSUM_BYTES = 4;

  /** Four times the largest batch. */
  static final int MOST_PAYLOAD_BYTES = 64 << 20;

  static final int HEADER = 1;
  static final int SENT = 2;
  static final int EXECUTED = 3;
  static final int END = 4;

  private static final List<String> CHECKS = List.of("value", "output shapes", "failure");

  private RecordFormat() {}

  static int headerChecksum(long offset, int length, int kind) {
    CRC32C checksum = new CRC32C();
    checksum.update(
        ByteBuffer.allocate(13)
            .order(ByteOrder.LITTLE_ENDIAN)
            .putLong(offset)
            .putInt(length)
            .put((byte) kind)
            .flip());
    return (int) checksum.getValue();
  }

  // Payloads ------------------------------------------------------------------------------------

  static ByteBuffer header(RecordingHeader header) {
    return text(header.toJson());
  }

  static ByteBuffer end(long nanos, String how) {
    ByteBuffer text = text(how);
    return allocate(8 + text.remaining()).putLong(nanos).put(text).flip();
  }

  /** What comes before the bytes of a batch, without its gaps. */
  static ByteBuffer sent(long sequence, long nanos, int size, List<Recorded.Gap> gaps) {
    ByteBuffer bytes = allocate(24 + 8 * gaps.size());
    bytes.putLong(sequence).putLong(nanos).putInt(size).putInt(gaps.size());
    gaps.forEach(gap -> bytes.putInt(gap.position()).putInt(gap.length()));
    return bytes.flip();
  }

  static ByteBuffer executed(Recorded.Executed executed) {
    List<Check> checks = executed.answers().checks();
    ByteBuffer what = text(executed.answers().unrepeatable().orElse(""));
    ByteBuffer bytes = allocate(24 + 21 * checks.size() + what.remaining());
    bytes.putLong(executed.sequence()).putLong(executed.nanos());
    bytes.putInt(executed.failures()).putInt(checks.size());
    for (Check check : checks) {
      bytes.put((byte) CHECKS.indexOf(check.kind())).putLong(check.request());
      bytes.putLong(check.bytes()).putInt((int) check.checksum());
    }
    return bytes.put(what).flip();
  }

  private static ByteBuffer allocate(int bytes) {
    return ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN);
  }

  private static ByteBuffer text(String text) {
    return ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8));
  }

  // Reading them --------------------------------------------------------------------------------

  /**
   * Reads a payload.
   *
   * @throws ProtocolException if it does not follow the format
   */
  static Recorded read(int kind, ByteBuffer payload) {
    ByteBuffer in = payload.order(ByteOrder.LITTLE_ENDIAN);
    try {
      return switch (kind) {
        case HEADER -> RecordingHeader.parse(rest(in));
        case SENT -> readSent(in);
        case EXECUTED -> readExecuted(in);
        case END -> new Recorded.End(in.getLong(), rest(in));
        default -> throw new ProtocolException("a record of unknown kind " + kind);
      };
    } catch (BufferUnderflowException e) {
      throw new ProtocolException("a record ends too early", e);
    }
  }

  private static Recorded.Sent readSent(ByteBuffer in) {
    long sequence = in.getLong();
    long nanos = in.getLong();
    int size = in.getInt();
    int count = in.getInt();
    if (count < 0 || count > in.remaining() / 8) {
      throw new ProtocolException("a batch has %d gaps".formatted(count));
    }
    List<Recorded.Gap> gaps = new ArrayList<>(count);
    long left = 0;
    long last = 0;
    for (int i = 0; i < count; i++) {
      Recorded.Gap gap = new Recorded.Gap(in.getInt(), in.getInt());
      if (gap.position() < last || gap.length() < 0) {
        throw new ProtocolException("the gaps of a batch are not in order");
      }
      last = (long) gap.position() + gap.length();
      left += gap.length();
      gaps.add(gap);
    }
    if (size < 0 || size > MOST_PAYLOAD_BYTES || last > size || size - left != in.remaining()) {
      throw new ProtocolException(
          "a batch of %d bytes with %d left out has %d".formatted(size, left, in.remaining()));
    }
    ByteBuffer bytes = ByteBuffer.allocateDirect(size);
    for (Recorded.Gap gap : gaps) {
      bytes.put(slice(in, gap.position() - bytes.position()));
      bytes.position(bytes.position() + gap.length());
    }
    return new Recorded.Sent(sequence, nanos, bytes.put(in).flip(), gaps);
  }

  private static ByteBuffer slice(ByteBuffer in, int length) {
    ByteBuffer slice = in.slice(in.position(), length);
    in.position(in.position() + length);
    return slice;
  }

  private static Recorded.Executed readExecuted(ByteBuffer in) {
    long sequence = in.getLong();
    long nanos = in.getLong();
    int failures = in.getInt();
    int count = in.getInt();
    if (count < 0 || count > in.remaining() / 21) {
      throw new ProtocolException("a batch has %d answers".formatted(count));
    }
    List<Check> checks = new ArrayList<>(count);
    for (int i = 0; i < count; i++) {
      int kind = in.get();
      if (kind < 0 || kind >= CHECKS.size()) {
        throw new ProtocolException("an answer of unknown kind " + kind);
      }
      checks.add(
          new Check(in.getLong(), CHECKS.get(kind), in.getLong(), in.getInt() & 0xFFFFFFFFL));
    }
    String what = rest(in);
    return new Recorded.Executed(
        sequence,
        nanos,
        new Answers(checks, what.isEmpty() ? Optional.empty() : Optional.of(what)),
        failures);
  }

  private static String rest(ByteBuffer in) {
    return StandardCharsets.UTF_8.decode(in).toString();
  }
}
