// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.NoSuchFileException;
import java.nio.file.OpenOption;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/**
 * A file that several threads assemble from pieces in any order. When it is opened again, it knows
 * which pieces it has: after its bytes it stores the size of the pieces and one byte per piece.
 */
final class PartialFile implements AutoCloseable {
  private final Path path;
  private final FileChannel channel;
  private final long bytes;
  private final long pieceBytes;
  private final int pieces;

  private PartialFile(Path path, long bytes, long pieceBytes, OpenOption... options)
      throws IOException {
    this.path = path;
    this.bytes = bytes;
    this.pieceBytes = pieceBytes;
    pieces = Math.toIntExact((bytes + pieceBytes - 1) / pieceBytes);
    channel = FileChannel.open(path, options);
  }

  /** Continues the file if it has these sizes, or starts over. */
  static PartialFile open(Path path, long bytes, long pieceBytes) {
    PartialFile file;
    try {
      file =
          new PartialFile(
              path,
              bytes,
              pieceBytes,
              StandardOpenOption.CREATE,
              StandardOpenOption.READ,
              StandardOpenOption.WRITE);
    } catch (IOException e) {
      throw HubCache.failed(path, e);
    }
    try {
      if (!file.isContinued()) {
        file.startOver();
      }
      return file;
    } catch (RuntimeException e) {
      file.close();
      throw e;
    }
  }

  /** The number of bytes that an earlier download has left. */
  static long bytesDone(Path path, long bytes, long pieceBytes) {
    try (PartialFile file = new PartialFile(path, bytes, pieceBytes, StandardOpenOption.READ)) {
      long done = 0;
      for (int i = 0; i < file.pieces && file.isContinued(); i++) {
        done += file.has(i) ? file.end(i) - file.begin(i) : 0;
      }
      return done;
    } catch (NoSuchFileException e) {
      return 0;
    } catch (IOException e) {
      throw HubCache.failed(path, e);
    }
  }

  /** How many pieces it has. */
  int count() {
    return pieces;
  }

  long begin(int piece) {
    return piece * pieceBytes;
  }

  long end(int piece) {
    return Math.min(bytes, (piece + 1) * pieceBytes);
  }

  boolean has(int piece) {
    ByteBuffer mark = ByteBuffer.allocate(1);
    read(mark, bytes + Long.BYTES + piece);
    return mark.get(0) == 1;
  }

  void markDone(int piece) {
    write(ByteBuffer.wrap(new byte[] {1}), bytes + Long.BYTES + piece);
  }

  void write(ByteBuffer from, long position) {
    try {
      for (long at = position; from.hasRemaining(); ) {
        at += channel.write(from, at);
      }
    } catch (IOException e) {
      throw HubCache.failed(path, e);
    }
  }

  /** Forgets all pieces. */
  void startOver() {
    try {
      channel.truncate(0);
    } catch (IOException e) {
      throw HubCache.failed(path, e);
    }
    write(ByteBuffer.allocate(Long.BYTES + pieces).putLong(0, pieceBytes), bytes);
  }

  /** Removes the data after the file's bytes. */
  void finish() {
    try {
      channel.truncate(bytes);
    } catch (IOException e) {
      throw HubCache.failed(path, e);
    }
  }

  @Override
  public void close() {
    try {
      channel.close();
    } catch (IOException e) {
      throw HubCache.failed(path, e);
    }
  }

  private boolean isContinued() {
    try {
      if (channel.size() != bytes + Long.BYTES + pieces) {
        return false;
      }
    } catch (IOException e) {
      throw HubCache.failed(path, e);
    }
    ByteBuffer size = ByteBuffer.allocate(Long.BYTES);
    read(size, bytes);
    return size.getLong(0) == pieceBytes;
  }

  private void read(ByteBuffer into, long position) {
    try {
      if (channel.read(into, position) != into.capacity()) {
        throw new IOException(path + " was cut off by another program");
      }
    } catch (IOException e) {
      throw HubCache.failed(path, e);
    }
  }
}
