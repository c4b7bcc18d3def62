// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import io.remora.core.PartFiles;
import io.remora.models.hub.NoDiskSpaceException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.UUID;

/**
 * A file that is written under a temporary name and moved to its place when it is complete. Until
 * then, or if it is never completed, an older file at its place stays. The next writer of the same
 * file removes what a killed process has left.
 */
public final class NewFile implements AutoCloseable {
  private final Path target;
  private final Path path;
  private final long bytes;
  private final FileChannel channel;

  private NewFile(Path target, Path path, long bytes, FileChannel channel) {
    this.target = target;
    this.path = path;
    this.bytes = bytes;
    this.channel = channel;
  }

  /**
   * Creates the file in the target's folder, which must exist.
   *
   * @param bytes the file's final size
   * @throws NoDiskSpaceException when the disk has no room for it
   * @throws ModelException when it cannot be created
   */
  public static NewFile of(Path target, long bytes) {
    Path absolute = target.toAbsolutePath();
    String prefix = ".%s.".formatted(absolute.getFileName());
    Path path = absolute.resolveSibling(prefix + UUID.randomUUID() + PartFiles.SUFFIX);
    try {
      PartFiles.deleteLeftBehind(absolute.getParent(), prefix);
      long free = Files.getFileStore(absolute.getParent()).getUsableSpace();
      if (free < bytes) {
        throw new NoDiskSpaceException(
            "%s needs %d bytes, but the disk of %s has only %d bytes left"
                .formatted(target, bytes, absolute.getParent(), free));
      }
      return new NewFile(
          absolute,
          path,
          bytes,
          FileChannel.open(path, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE));
    } catch (IOException e) {
      throw new ModelException("%s cannot be written: %s".formatted(target, e), e);
    }
  }

  /** The temporary path of the incomplete file. */
  public Path path() {
    return path;
  }

  /**
   * Writes the buffer's remaining bytes.
   *
   * @param offset in the file
   */
  public void write(ByteBuffer bytes, long offset) {
    long at = offset;
    try {
      while (bytes.hasRemaining()) {
        at += channel.write(bytes, at);
      }
    } catch (IOException e) {
      throw new ModelException("%s cannot be written: %s".formatted(target, e), e);
    }
  }

  /**
   * Moves the complete file to its place. The file is on disk when this method returns.
   *
   * @throws ModelException when the file cannot be moved, or does not have its announced size
   */
  public void commit() {
    try {
      if (channel.size() != bytes) {
        throw new ModelException(
            "%s has %d bytes after it was written, not %d"
                .formatted(target, channel.size(), bytes));
      }
      channel.force(true);
      channel.close();
      Files.move(path, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    } catch (IOException e) {
      throw new ModelException("%s cannot be moved into place: %s".formatted(target, e), e);
    }
  }

  /** Deletes the file if it was not moved to its place. */
  @Override
  public void close() {
    try {
      channel.close();
      Files.deleteIfExists(path);
    } catch (IOException e) {
      throw new ModelException("%s cannot be deleted: %s".formatted(path, e), e);
    }
  }
}
