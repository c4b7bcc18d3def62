// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.recording;

import io.remora.runtime.ProtocolException;
import java.io.BufferedInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.zip.CRC32C;

/**
 * Reads a recording. A file may end anywhere, since its program may have been killed: the records
 * before are good, and {@link #wasCut} tells. Treats its input as hostile. Not thread-safe.
 */
public final class RecordingReader implements AutoCloseable {

  private static final int BUFFER_BYTES = 64 << 10;

  private final Path file;
  private final InputStream in;
  private final RecordingHeader header;
  private long offset;
  private boolean ended;
  private boolean cut;

  private RecordingReader(Path file) throws IOException {
    this.file = file;
    this.in = new BufferedInputStream(Files.newInputStream(file), BUFFER_BYTES);
    try {
      this.header = readHeader();
    } catch (IOException | RuntimeException e) {
      in.close();
      throw e;
    }
  }

  /**
   * Opens a file and reads its header.
   *
   * @throws ProtocolException if it is no recording, or is damaged or cut before its header's end
   */
  public static RecordingReader open(Path file) throws IOException {
    return new RecordingReader(file);
  }

  private RecordingHeader readHeader() throws IOException {
    byte[] preamble = in.readNBytes(RecordFormat.PREAMBLE_BYTES);
    ByteBuffer bytes = ByteBuffer.allocate(RecordFormat.PREAMBLE_BYTES).put(preamble).rewind();
    bytes.order(ByteOrder.LITTLE_ENDIAN);
    if (preamble.length < RecordFormat.PREAMBLE_BYTES || bytes.getLong() != RecordFormat.MAGIC) {
      throw new ProtocolException(file + " is no recording of Remora");
    }
    int version = bytes.getInt();
    if (version != RecordFormat.VERSION) {
      throw new ProtocolException(
          "%s has version %d of the format of recordings, this program reads version %d"
              .formatted(file, version, RecordFormat.VERSION));
    }
    offset = RecordFormat.PREAMBLE_BYTES;
    Recorded first = next();
    if (first instanceof RecordingHeader found) {
      return found;
    }
    if (first == null) {
      throw new ProtocolException(file + " ends before the end of its header");
    }
    throw damaged(RecordFormat.PREAMBLE_BYTES, "its first record is no header", null);
  }

  /** What the file is. */
  public RecordingHeader header() {
    return header;
  }

  /** The offset of the next record. */
  public long offset() {
    return offset;
  }

  /**
   * The next record; null at the end of the file.
   *
   * @throws ProtocolException if the record is damaged; the message has its offset
   */
  public Recorded next() throws IOException {
    long at = offset;
    byte[] head = in.readNBytes(RecordFormat.FRAME_HEADER_BYTES);
    if (head.length < RecordFormat.FRAME_HEADER_BYTES) {
      cut = head.length > 0 || !ended;
      return null;
    }
    ByteBuffer fields = ByteBuffer.wrap(head).order(ByteOrder.LITTLE_ENDIAN);
    int length = fields.getInt();
    int kind = fields.get();
    if (fields.getInt() != RecordFormat.headerChecksum(at, length, kind)) {
      throw damaged(at, "the checksum of its length is wrong", null);
    }
    if (length < 0 || length > RecordFormat.MOST_PAYLOAD_BYTES) {
      throw damaged(at, "it has %d bytes".formatted(length), null);
    }
    if (ended) {
      throw damaged(at, "it comes after the last one", null);
    }
    byte[] payload;
    int checksum;
    try {
      payload = exactly(length);
      checksum =
          ByteBuffer.wrap(exactly(RecordFormat.CHECKSUM_BYTES))
              .order(ByteOrder.LITTLE_ENDIAN)
              .getInt();
    } catch (EOFException e) {
      cut = true;
      return null;
    }
    CRC32C actual = new CRC32C();
    actual.update(payload);
    if (checksum != (int) actual.getValue()) {
      throw damaged(at, "its checksum is wrong", null);
    }
    offset = at + RecordFormat.FRAME_HEADER_BYTES + length + RecordFormat.CHECKSUM_BYTES;
    try {
      Recorded record = RecordFormat.read(kind, ByteBuffer.wrap(payload));
      ended = record instanceof Recorded.End;
      return record;
    } catch (ProtocolException e) {
      throw damaged(at, e.getMessage(), e);
    }
  }

  private byte[] exactly(int length) throws IOException {
    byte[] bytes = in.readNBytes(length);
    if (bytes.length < length) {
      throw new EOFException();
    }
    return bytes;
  }

  /** Whether the file ended before its last record was whole; known at the end. */
  public boolean wasCut() {
    return cut;
  }

  private ProtocolException damaged(long at, String how, Throwable cause) {
    return new ProtocolException(
        "%s is damaged: the record at byte %d cannot be read: %s".formatted(file, at, how), cause);
  }

  @Override
  public void close() throws IOException {
    in.close();
  }
}
