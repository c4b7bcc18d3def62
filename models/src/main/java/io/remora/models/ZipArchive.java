// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static io.remora.models.ModelFileException.quoted;

import io.remora.models.StorageKey.Deflated;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.zip.CRC32;

/**
 * A zip archive: where each of its entries lies in the file, stored as it is, as PyTorch writes
 * them, or deflated, as other programs may have packed it again. With zip64, which PyTorch always
 * writes.
 */
final class ZipArchive {
  private static final int END = 0x06054b50;
  static final int END_BYTES = 22;
  private static final int ZIP64_LOCATOR = 0x07064b50;
  private static final int ZIP64_LOCATOR_BYTES = 20;
  private static final int ZIP64_END = 0x06064b50;
  private static final int ZIP64_END_BYTES = 56;
  private static final int CENTRAL = 0x02014b50;
  private static final int CENTRAL_BYTES = 46;
  private static final int LOCAL = 0x04034b50;
  private static final int LOCAL_BYTES = 30;
  private static final int ZIP64_EXTRA = 1;
  private static final long ZIP64_MARK = 0xffffffffL;
  private static final int MAX_COMMENT = 0xffff;
  private static final int MAX_DIRECTORY_BYTES = 64 << 20;
  private static final int ENCRYPTED = 1;
  private static final int STORED = 0;
  private static final int DEFLATED = 8;

  /**
   * An entry as the directory has it.
   *
   * @param method STORED or DEFLATED
   * @param bytes in the archive
   */
  private record Entry(
      int flags, int method, long crc, long bytes, long uncompressed, long header) {}

  /**
   * Where an entry's bytes lie.
   *
   * @param bytes how many they are when they are inflated
   */
  record Place(long offset, long bytes, Optional<Deflated> deflated) {}

  private final FileInput input;
  private final Map<String, Entry> entries = new HashMap<>();
  private final long directoryOffset;

  /** Reads the directory; the file must stay open while entries are asked for. */
  ZipArchive(FileInput input) {
    this.input = input;
    int tailBytes = (int) Math.min(input.size(), END_BYTES + MAX_COMMENT);
    ByteBuffer tail = input.read(input.size() - tailBytes, tailBytes);
    int end = tailBytes - END_BYTES;
    while (end >= 0 && tail.getInt(end) != END) {
      end--;
    }
    if (end < 0) {
      throw input.error("it is cut off, or not a zip archive: it has no directory");
    }
    long count = tail.getShort(end + 10) & 0xffff;
    long bytes = tail.getInt(end + 12) & ZIP64_MARK;
    long offset = tail.getInt(end + 16) & ZIP64_MARK;
    long locator = input.size() - tailBytes + end - ZIP64_LOCATOR_BYTES;
    if (locator >= 0 && input.read(locator, 4).getInt() == ZIP64_LOCATOR) {
      long zip64End = input.read(locator, ZIP64_LOCATOR_BYTES).getLong(8);
      ByteBuffer wide = read(zip64End, ZIP64_END_BYTES, ZIP64_END, "the zip64 directory's end");
      count = wide.getLong(32);
      bytes = wide.getLong(40);
      offset = wide.getLong(48);
    }
    if (offset < 0 || bytes < 0 || bytes > MAX_DIRECTORY_BYTES || offset > input.size() - bytes) {
      throw input.error("its zip directory lies outside the file or is too large");
    }
    directoryOffset = offset;
    readDirectory(input.read(offset, (int) bytes), count);
  }

  Set<String> names() {
    return entries.keySet();
  }

  /** Where the entry's bytes lie, which are within the file. */
  Place place(String name) {
    Entry entry = entries.get(name);
    if (entry == null) {
      throw input.error("its record " + quoted(name) + " is missing");
    }
    if ((entry.flags & ENCRYPTED) != 0 || (entry.method != STORED && entry.method != DEFLATED)) {
      throw input.error(
          "its record %s is encrypted, or compressed by a method other than deflate: save it with torch.save"
              .formatted(quoted(name)));
    }
    boolean deflated = entry.method == DEFLATED;
    if (entry.bytes < 0
        || entry.uncompressed < 0
        || (deflated
            ? entry.uncompressed / Inflation.MAX_RATIO > entry.bytes
            : entry.uncompressed != entry.bytes)) {
      throw input.error("its record " + quoted(name) + " has two sizes that contradict each other");
    }
    ByteBuffer local = read(entry.header, LOCAL_BYTES, LOCAL, "the record " + quoted(name));
    int nameBytes = local.getShort(26) & 0xffff;
    long offset = entry.header + LOCAL_BYTES + nameBytes + (local.getShort(28) & 0xffff);
    if (offset > directoryOffset || entry.bytes > directoryOffset - offset) {
      throw input.error("its record " + quoted(name) + " lies outside the file");
    }
    String localName = text(input.read(entry.header + LOCAL_BYTES, nameBytes), 0, nameBytes);
    if (!localName.equals(name)) {
      throw input.error(
          "its record %s has the name %s in its own header"
              .formatted(quoted(name), quoted(localName)));
    }
    return new Place(
        offset,
        entry.uncompressed,
        deflated ? Optional.of(new Deflated(entry.bytes, entry.crc)) : Optional.empty());
  }

  /** A small entry's bytes, their checksum checked. */
  byte[] read(String name, int atMost) {
    Place place = place(name);
    if (place.bytes > atMost) {
      throw input.error(
          "its record %s has %d bytes, more than the %d allowed"
              .formatted(quoted(name), place.bytes, atMost));
    }
    if (place.deflated.isPresent()) {
      ByteBuffer inflated = ByteBuffer.allocate((int) place.bytes);
      Inflation.inflate(
          input,
          place.offset,
          place.deflated.get(),
          place.bytes,
          "its record " + quoted(name),
          inflated::put);
      return inflated.array();
    }
    byte[] bytes = input.read(place.offset, (int) place.bytes).array();
    CRC32 crc = new CRC32();
    crc.update(bytes);
    if (crc.getValue() != entries.get(name).crc) {
      throw input.error("its record " + quoted(name) + " is damaged: the checksum differs");
    }
    return bytes;
  }

  private void readDirectory(ByteBuffer directory, long count) {
    for (long i = 0; i < count; i++) {
      if (directory.remaining() < CENTRAL_BYTES
          || directory.getInt(directory.position()) != CENTRAL) {
        throw input.error("its zip directory is damaged at entry " + i + " of " + count);
      }
      int at = directory.position();
      int nameBytes = directory.getShort(at + 28) & 0xffff;
      int extraBytes = directory.getShort(at + 30) & 0xffff;
      int end =
          at + CENTRAL_BYTES + nameBytes + extraBytes + (directory.getShort(at + 32) & 0xffff);
      if (end > directory.limit()) {
        throw input.error("its zip directory is damaged at entry " + i + " of " + count);
      }
      int extra = at + CENTRAL_BYTES + nameBytes;
      Entry entry = entry(directory, at, extra, extra + extraBytes);
      if (entries.put(text(directory, at + CENTRAL_BYTES, nameBytes), entry) != null) {
        throw input.error("its zip directory has two entries with the same name");
      }
      directory.position(end);
    }
  }

  private Entry entry(ByteBuffer directory, int at, int extra, int extraEnd) {
    long bytes = directory.getInt(at + 20) & ZIP64_MARK;
    long uncompressed = directory.getInt(at + 24) & ZIP64_MARK;
    long header = directory.getInt(at + 42) & ZIP64_MARK;
    // The zip64 field has those of the three that do not fit, in this order.
    for (int field = extra; field + 4 <= extraEnd; ) {
      int next = field + 4 + (directory.getShort(field + 2) & 0xffff);
      if (directory.getShort(field) == ZIP64_EXTRA && next <= extraEnd) {
        ByteBuffer wide = directory.duplicate().order(directory.order());
        wide.limit(next).position(field + 4);
        uncompressed = uncompressed == ZIP64_MARK ? wideOf(wide) : uncompressed;
        bytes = bytes == ZIP64_MARK ? wideOf(wide) : bytes;
        header = header == ZIP64_MARK ? wideOf(wide) : header;
      }
      field = next;
    }
    return new Entry(
        directory.getShort(at + 8),
        directory.getShort(at + 10) & 0xffff,
        directory.getInt(at + 16) & ZIP64_MARK,
        bytes,
        uncompressed,
        header);
  }

  private long wideOf(ByteBuffer wide) {
    if (wide.remaining() < 8) {
      throw input.error("its zip directory is damaged: a zip64 field is too short");
    }
    return wide.getLong();
  }

  private ByteBuffer read(long offset, int bytes, int signature, String what) {
    if (offset >= 0 && offset <= input.size() - bytes) {
      ByteBuffer found = input.read(offset, bytes);
      if (found.getInt(0) == signature) {
        return found;
      }
    }
    throw input.error("it is damaged: " + what + " is not where the zip directory says");
  }

  private static String text(ByteBuffer buffer, int offset, int bytes) {
    return new String(buffer.array(), buffer.arrayOffset() + offset, bytes, StandardCharsets.UTF_8);
  }
}
