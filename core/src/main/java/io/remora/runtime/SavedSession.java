// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.util.zip.CRC32C;

/**
 * The description of a saved session's file.
 *
 * @param bytes size of the file
 * @param checksum CRC-32C of the file, as in {@link java.util.zip.CRC32C}
 * @param storages number of storages in the file
 * @param sequence the last batch that the session had executed
 */
public record SavedSession(long bytes, long checksum, long storages, long sequence) {

  private static final int CHUNK_BYTES = 1 << 20;

  /** Reads a file to describe it. */
  public static SavedSession ofFile(Path file, long storages, long sequence) throws IOException {
    CRC32C checksum = new CRC32C();
    ByteBuffer buffer = ByteBuffer.allocateDirect(CHUNK_BYTES);
    long bytes = 0;
    try (FileChannel channel = FileChannel.open(file)) {
      while (channel.read(buffer.clear()) >= 0) {
        bytes += buffer.flip().remaining();
        checksum.update(buffer);
      }
    }
    return new SavedSession(bytes, checksum.getValue(), storages, sequence);
  }
}
