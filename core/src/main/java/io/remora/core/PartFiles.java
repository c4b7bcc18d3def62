// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.io.IOException;
import java.nio.file.DirectoryIteratorException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;

/**
 * Files that are written beside their place and put there when they are whole. Their names end with
 * {@link #SUFFIX}.
 */
public final class PartFiles {

  /** How their names end. */
  public static final String SUFFIX = ".part";

  /** One that nobody has written to for so long gets no more. */
  private static final Duration LEFT_BEHIND = Duration.ofHours(1);

  private PartFiles() {}

  /**
   * Deletes what killed processes have left in a folder.
   *
   * @param prefix how the names begin
   */
  public static void deleteLeftBehind(Path folder, String prefix) throws IOException {
    FileTime longAgo = FileTime.from(Instant.now().minus(LEFT_BEHIND));
    try (DirectoryStream<Path> parts =
        Files.newDirectoryStream(folder, each -> isPart(each.getFileName().toString(), prefix))) {
      for (Path part : parts) {
        deleteIfOlder(part, longAgo);
      }
    } catch (DirectoryIteratorException e) {
      throw e.getCause();
    }
  }

  private static boolean isPart(String name, String prefix) {
    return name.startsWith(prefix) && name.endsWith(SUFFIX);
  }

  private static void deleteIfOlder(Path part, FileTime longAgo) throws IOException {
    try {
      if (Files.getLastModifiedTime(part).compareTo(longAgo) < 0) {
        Files.delete(part);
      }
    } catch (NoSuchFileException e) {
      // Another process has put it to its place, or deleted it.
    }
  }
}
