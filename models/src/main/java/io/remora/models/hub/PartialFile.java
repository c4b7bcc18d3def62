// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/**
 * A file that is put together from pieces, in any order and by several threads, and that knows
 * which it has when it is opened again: behind its bytes stand the pieces' size and one byte for
 * each piece.
 */
final class PartialFile implements AutoCloseable {
  private final Path path;
  private final FileChannel channel;
  private final long bytes;
  private final long pieceBytes;
  private final int pieces;

  PartialFile(Path path, long bytes, long pieceBytes) {
    this.path = path;
    this.bytes = bytes;
    this.pieceBytes = pieceBytes;
    pieces = Math.toIntExact((bytes + pieceBytes - 1) / pieceBytes);
    try {
      channel =
          FileChannel.open(
              path, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE);
    } catch (IOException e) {
      throw HubCache.failed(path, e);
    }
    if (!isContinued()) {
      startOver();
    }
  }

  int pieces() {
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

  /** Takes off what stands behind the bytes. */
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
