// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.state;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import io.remora.runtime.SavedSession;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Properties;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Keeps sessions as files in a folder, {@code remora.state.directory}: one folder per pause, which
 * has for each session a state file and a manifest with its size and checksum. Only the user who
 * runs the node can read the files. Thread-safe.
 */
public final class DirectoryStateStore implements StateStore {

  /** The name for {@code remora.state.store}. */
  public static final String NAME = "directory";

  private static final List<String> NOT_FOR_FOLDERS =
      List.of("Invalid argument", "not supported", "Bad file descriptor");

  private static final Logger log = LoggerFactory.getLogger(DirectoryStateStore.class);

  private final Path directory;

  /** Creates stores of this kind. */
  static final class Provider implements StateStoreProvider {
    @Override
    public String name() {
      return NAME;
    }

    @Override
    public StateStore open(Config config) {
      return new DirectoryStateStore(directory(config));
    }
  }

  /** The folder in {@code remora.state.directory}. */
  public static Path directory(Config config) {
    String directory = config.getString("remora.state.directory");
    return directory.isBlank()
        ? Path.of(System.getProperty("user.home"), ".remora", "state")
        : Path.of(directory);
  }

  /** A store in this folder, which is created by the first save. */
  public DirectoryStateStore(Path directory) {
    this.directory = requireNonNull(directory, "directory").toAbsolutePath();
  }

  @Override
  public SavedSession save(StateKey key, Writer writer) throws IOException {
    Path folder = folder(key.pause());
    createFolder(directory);
    createFolder(folder);
    Path file = file(key, "state");
    try {
      SavedSession saved = writer.writeTo(file);
      makeDurable(file);
      verify(file, saved);
      writeManifest(key, saved);
      makeDurable(file(key, "manifest"));
      makeDurable(folder);
      makeDurable(directory);
      return saved;
    } catch (IOException | RuntimeException | Error e) {
      try {
        Files.deleteIfExists(file);
        Files.deleteIfExists(file(key, "manifest"));
        Files.deleteIfExists(folder);
      } catch (DirectoryNotEmptyException other) {
        // The folder still has files of other sessions.
      } catch (IOException also) {
        e.addSuppressed(also);
      }
      throw e;
    }
  }

  /**
   * Reads the written file again and compares it, since disks and network file systems may lose
   * data.
   */
  private static void verify(Path file, SavedSession saved) throws IOException {
    SavedSession found = SavedSession.ofFile(file, saved.storages(), saved.sequence());
    if (!found.equals(saved)) {
      throw new IOException(
          "%s has %d bytes with checksum %08x, but %d bytes with checksum %08x were written"
              .formatted(file, found.bytes(), found.checksum(), saved.bytes(), saved.checksum()));
    }
  }

  /**
   * Makes the file system write a file, or the names in a folder, to disk. On a volume that is
   * mounted at the store's folder this commits the volume, as the command {@code sync} does.
   */
  private static void makeDurable(Path path) throws IOException {
    try (FileChannel channel = FileChannel.open(path)) {
      channel.force(true);
    } catch (IOException e) {
      // Some file systems do not support this for folders.
      String why = String.valueOf(e.getMessage());
      if (!Files.isDirectory(path) || NOT_FOR_FOLDERS.stream().noneMatch(why::contains)) {
        throw e;
      }
      log.debug("{} cannot be made durable by itself", path, e);
    }
  }

  private void writeManifest(StateKey key, SavedSession saved) throws IOException {
    Properties manifest = new Properties();
    manifest.setProperty("pause", key.pause());
    manifest.setProperty("session", Long.toString(key.session()));
    manifest.setProperty("bytes", Long.toString(saved.bytes()));
    manifest.setProperty("crc32c", "%08x".formatted(saved.checksum()));
    manifest.setProperty("storages", Long.toString(saved.storages()));
    manifest.setProperty("executed", Long.toString(saved.sequence()));
    try (var out = Files.newOutputStream(file(key, "manifest"))) {
      manifest.store(out, "A session of a paused Remora machine");
    }
  }

  @Override
  public void load(StateKey key, Reader reader) throws IOException {
    Path file = file(key, "state");
    if (!Files.exists(file)) {
      throw new NoSuchFileException(file.toString(), null, "there is no such state file");
    }
    reader.readFrom(file);
  }

  @Override
  public void delete(String pause) throws IOException {
    Path folder = folder(StateKey.checkPause(pause));
    try (DirectoryStream<Path> files = Files.newDirectoryStream(folder)) {
      for (Path file : files) {
        Files.deleteIfExists(file);
      }
    } catch (NoSuchFileException e) {
      return;
    }
    Files.deleteIfExists(folder);
  }

  @Override
  public List<Stored> list(String prefix) throws IOException {
    return list(prefix, true);
  }

  @Override
  public List<Stored> unfinished(String prefix) throws IOException {
    return list(prefix, false);
  }

  private List<Stored> list(String prefix, boolean complete) throws IOException {
    List<Stored> found = new ArrayList<>();
    try (DirectoryStream<Path> folders =
        Files.newDirectoryStream(
            directory, folder -> folder.getFileName().toString().startsWith(prefix))) {
      for (Path folder : folders) {
        describe(folder, complete).ifPresent(found::add);
      }
    } catch (NoSuchFileException e) {
      return List.of(); // nothing has been saved so far
    }
    return found;
  }

  /** Nothing if the folder has a manifest, which is written last, and should not, or conversely. */
  private static Optional<Stored> describe(Path folder, boolean complete) throws IOException {
    long bytes = 0;
    FileTime manifest = null;
    FileTime written;
    try (DirectoryStream<Path> files = Files.newDirectoryStream(folder)) {
      written = Files.getLastModifiedTime(folder);
      for (Path file : files) {
        BasicFileAttributes attributes = Files.readAttributes(file, BasicFileAttributes.class);
        bytes += attributes.size();
        FileTime time = attributes.lastModifiedTime();
        written = later(written, time);
        if (file.toString().endsWith(".manifest")) {
          manifest = later(manifest, time);
        }
      }
    } catch (NoSuchFileException | NotDirectoryException e) {
      return Optional.empty(); // deleted meanwhile, or not the store's
    }
    if (complete != (manifest != null)) {
      return Optional.empty();
    }
    FileTime time = complete ? manifest : written;
    return Optional.of(new Stored(folder.getFileName().toString(), bytes, time.toInstant()));
  }

  private static FileTime later(FileTime one, FileTime other) {
    return one == null || other.compareTo(one) > 0 ? other : one;
  }

  private Path folder(String pause) {
    return directory.resolve(pause);
  }

  private Path file(StateKey key, String ending) {
    return folder(key.pause()).resolve("session-%d.%s".formatted(key.session(), ending));
  }

  /** Creates a folder that only its owner can read, if the file system supports this. */
  private static void createFolder(Path folder) throws IOException {
    if (Files.isDirectory(folder)) {
      return;
    }
    try {
      if (folder.getFileSystem().supportedFileAttributeViews().contains("posix")) {
        Files.createDirectories(
            folder,
            PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")));
      } else {
        Files.createDirectories(folder);
      }
    } catch (IOException e) {
      throw new IOException(
          "the folder %s cannot be made (remora.state.directory): %s".formatted(folder, e), e);
    }
  }
}
