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
 * Files that are written under a temporary name beside their final place, and moved there when they
 * are complete. The temporary names end with {@link #SUFFIX}.
 */
public final class PartFiles {

  /** The suffix of the temporary names. */
  public static final String SUFFIX = ".part";

  /** After this long without a write, a file counts as left behind. */
  private static final Duration LEFT_BEHIND = Duration.ofHours(1);

  private PartFiles() {}

  /**
   * Deletes the files that killed processes have left in a folder.
   *
   * @param prefix the prefix of the names
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
      // Another process has moved or deleted the file.
    }
  }
}
