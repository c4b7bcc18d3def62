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
 * A file that is written beside its place, and put there when it is whole: until then, and when it
 * never gets whole, what was there before stays. What a killed process has left there is removed by
 * the next one that writes the same file.
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
   * Makes the file, in the target's folder, which is there.
   *
   * @param bytes how large it will be
   * @throws NoDiskSpaceException when the disk has no room for them
   * @throws ModelException when it cannot be made
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
            "%s needs %d bytes, the disk of %s has %d left"
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

  /** Where it is as long as it is not whole. */
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
   * Puts the file, which is whole, to its place; on disk when this returns.
   *
   * @throws ModelException when it cannot, or the file does not have the bytes that it was to have
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
      throw new ModelException("%s cannot be put to its place: %s".formatted(target, e), e);
    }
  }

  /** Deletes the file if it is not in its place. */
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
