// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;

/** Reads a model's file piece by piece. Every error is a {@link ModelFileException}. */
final class FileInput implements AutoCloseable {
  private static final String LFS_POINTER = "version https://git-lfs.github.com/spec/";

  private final Path path;
  private final FileChannel channel;
  private final long size;

  FileInput(Path path) {
    this.path = path;
    try {
      channel = FileChannel.open(path, StandardOpenOption.READ);
      size = channel.size();
      if (size > LFS_POINTER.length() && size < 1024 && startsWith(LFS_POINTER)) {
        throw error(
            "it is a Git LFS pointer, not the file itself: fetch the file with git lfs pull");
      }
    } catch (NoSuchFileException e) {
      throw new ModelFileException(path + ": no such file", e);
    } catch (IOException e) {
      throw new ModelFileException(path + ": cannot be read: " + e, e);
    }
  }

  private boolean startsWith(String text) {
    byte[] bytes = text.getBytes(StandardCharsets.US_ASCII);
    return Arrays.equals(bytes, read(0, bytes.length).array());
  }

  /** The whole of a file that must not be larger than this. */
  static byte[] readSmall(Path path, long atMost) {
    try (FileInput input = new FileInput(path)) {
      if (input.size > atMost) {
        throw input.error(
            "it has %d bytes, more than the %d allowed".formatted(input.size, atMost));
      }
      return input.read(0, (int) input.size).array();
    }
  }

  long size() {
    return size;
  }

  /**
   * That many bytes from there, little-endian; the caller has checked that they are reasonably few.
   */
  ByteBuffer read(long offset, int bytes) {
    ByteBuffer buffer = ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN);
    try {
      while (buffer.hasRemaining()) {
        if (channel.read(buffer, offset + buffer.position()) < 0) {
          throw new EOFException("it ends at byte " + (offset + buffer.position()));
        }
      }
    } catch (IOException e) {
      throw new ModelFileException(path + ": cannot be read: " + e, e);
    }
    return buffer.flip();
  }

  ModelFileException error(String message) {
    return new ModelFileException(path + ": " + message);
  }

  @Override
  public void close() {
    try {
      channel.close();
    } catch (IOException e) {
      throw new ModelFileException(path + ": cannot be closed: " + e, e);
    }
  }
}
