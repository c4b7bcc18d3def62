// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.zip.CRC32C;

/**
 * Batches on disk, in files that have no name from their first moment on: the system frees their
 * space when this process ends, however it ends. A file whose batches are all given up is closed.
 * Thread-safe.
 */
final class BatchFile {

  private static final long SEGMENT_BYTES = 64 << 20;

  /** A file. */
  private static final class Segment {
    final FileChannel channel;
    long end;
    int batches;
    boolean full;

    Segment(FileChannel channel) {
      this.channel = channel;
    }
  }

  /** Where a batch is. */
  static final class Place {
    private final Segment segment;
    private final long offset;
    private final int length;
    private final long checksum;

    Place(Segment segment, long offset, int length, long checksum) {
      this.segment = segment;
      this.offset = offset;
      this.length = length;
      this.checksum = checksum;
    }
  }

  private final Path directory;
  private Segment last;

  /**
   * @param directory is made if it is not there
   */
  BatchFile(Path directory) {
    this.directory = directory;
  }

  /** Writes a batch. Called by one thread at a time. */
  Place write(ByteBuffer batch) throws IOException {
    ByteBuffer bytes = batch.duplicate();
    CRC32C checksum = new CRC32C();
    checksum.update(bytes.duplicate());
    int length = bytes.remaining();
    Segment segment = segment(length);
    long offset = segment.end;
    while (bytes.hasRemaining()) {
      segment.channel.write(bytes, offset + length - bytes.remaining());
    }
    synchronized (this) {
      segment.end = offset + length;
      segment.batches++;
    }
    return new Place(segment, offset, length, checksum.getValue());
  }

  private Segment segment(int length) throws IOException {
    Segment filled;
    synchronized (this) {
      if (last != null && last.end + length <= SEGMENT_BYTES) {
        return last;
      }
      filled = last;
      last = null;
      if (filled != null) {
        filled.full = true;
        closeIfEmpty(filled);
      }
    }
    Files.createDirectories(directory);
    Path file = Files.createTempFile(directory, "remora-recovery-", ".log");
    FileChannel channel;
    try {
      channel = FileChannel.open(file, StandardOpenOption.READ, StandardOpenOption.WRITE);
    } finally {
      Files.delete(file);
    }
    synchronized (this) {
      last = new Segment(channel);
      return last;
    }
  }

  /**
   * Reads a batch into new memory.
   *
   * @throws IOException also if it is not what was written
   */
  static ByteBuffer read(Place place) throws IOException {
    ByteBuffer bytes = ByteBuffer.allocateDirect(place.length);
    while (bytes.hasRemaining()) {
      if (place.segment.channel.read(bytes, place.offset + bytes.position()) < 0) {
        throw new EOFException("the file is shorter than it was");
      }
    }
    CRC32C checksum = new CRC32C();
    checksum.update(bytes.flip().duplicate());
    if (checksum.getValue() != place.checksum) {
      throw new IOException("the checksum of a batch is wrong");
    }
    return bytes;
  }

  /** Gives a batch up. */
  synchronized void release(Place place) {
    place.segment.batches--;
    closeIfEmpty(place.segment);
  }

  /** No batch follows. */
  synchronized void close() {
    if (last != null) {
      last.full = true;
      closeIfEmpty(last);
      last = null;
    }
  }

  private static void closeIfEmpty(Segment segment) {
    if (segment.full && segment.batches == 0) {
      try {
        segment.channel.close();
      } catch (IOException e) {
        // Its space is free: nobody else has the file.
      }
    }
  }
}
