// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.launch;

import static java.util.Objects.requireNonNull;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeSet;
import java.util.UUID;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * An archive of the classes that a JVM of ours loads at its start (<a
 * href="https://openjdk.org/jeps/350">JEP 350</a>), with which the next ones start faster. There is
 * one for each combination of JDK, class path and main class, in the user's cache folder. It is
 * made by a process of low priority after a first start without it. Only class paths of jars can
 * have one. Thread-safe.
 */
public final class ClassArchive {

  private static final Logger log = LoggerFactory.getLogger(ClassArchive.class);

  /** How long the process that makes an archive stays up, so that it loads what a start needs. */
  private static final int LOADING_SECONDS = 15;

  /** After this time another process may try to make the archive. */
  private static final Duration GIVEN_UP_AFTER = Duration.ofMinutes(10);

  /** An archive that was not used for so long is deleted when another one is made. */
  private static final Duration UNUSED_AFTER = Duration.ofDays(30);

  /**
   * Runs the command with a standard input that ends in a while, and then puts the archive into its
   * place. The parameters are the seconds, the marker of this attempt, the new archive and its
   * place.
   */
  private static final List<String> MAKING =
      List.of(
          "/bin/sh",
          "-c",
          "seconds=$0 marker=$1 new=$2 place=$3; shift 3;"
              + " sleep \"$seconds\" | nice -n 19 \"$@\" >/dev/null 2>&1;"
              + " if [ -s \"$new\" ]; then mv -f \"$new\" \"$place\"; fi; rm -f \"$new\" \"$marker\"");

  private final Path file;

  private ClassArchive(Path file) {
    this.file = file;
  }

  /**
   * The archive for a JVM.
   *
   * @param folder where the archives are; it is made when the first one is
   * @param java the java command
   * @param classPath the class path, as for {@code -cp}
   * @param mainClass the main class
   * @return empty if there can be none: the class path has folders or missing files
   */
  public static Optional<ClassArchive> of(
      Path folder, Path java, String classPath, String mainClass) {
    requireNonNull(folder, "folder");
    try {
      StringBuilder key = new StringBuilder();
      describe(java.toRealPath(), key);
      for (Path jar : jars(classPath)) {
        if (!Files.isRegularFile(jar)) {
          return Optional.empty();
        }
        describe(jar, key);
      }
      byte[] all = key.append(mainClass).toString().getBytes(StandardCharsets.UTF_8);
      return Optional.of(new ClassArchive(folder.resolve(UUID.nameUUIDFromBytes(all) + ".jsa")));
    } catch (IOException e) {
      log.debug("no archive of classes for {}", mainClass, e);
      return Optional.empty();
    }
  }

  /**
   * The archive in a file. The caller chooses another name where JDK, class path or main class
   * differ.
   */
  public static ClassArchive at(Path file) {
    return new ClassArchive(file.toAbsolutePath());
  }

  /** The folder of the current user's archives, in that of {@code REMORA_CACHE} if it is set. */
  public static Path userFolder() {
    String named = System.getenv("REMORA_CACHE");
    if (named != null && !named.isEmpty()) {
      return Path.of(named, "classes");
    }
    String cache = System.getenv("XDG_CACHE_HOME");
    Path caches =
        cache == null || cache.isEmpty()
            ? Path.of(System.getProperty("user.home"), ".cache")
            : Path.of(cache);
    return caches.resolve("remora").resolve("classes");
  }

  /**
   * The JVM's options: none while the archive does not exist. A JVM ignores one that it cannot use.
   */
  public List<String> options() {
    if (!Files.isRegularFile(file)) {
      return List.of();
    }
    try {
      Files.setLastModifiedTime(file, FileTime.from(Instant.now()));
    } catch (IOException e) {
      log.debug("{} could not be marked as used", file, e);
    }
    return List.of(
        "-XX:SharedArchiveFile=" + file, "-Xshare:auto", "-Xlog:cds=off,cds+dynamic=off");
  }

  /**
   * Starts a process that makes the archive, unless it exists or is being made. Returns at once;
   * the process ends by itself, even after this program.
   *
   * @param command the JVM's command line, with the class path among its options, for a main class
   *     that ends with its standard input
   * @param environment variables for the process, besides this program's
   */
  public void makeLater(List<String> command, Map<String, String> environment) {
    makeLater(command, environment, LOADING_SECONDS);
  }

  void makeLater(List<String> command, Map<String, String> environment, int seconds) {
    Path marker = file.resolveSibling(file.getFileName() + ".making");
    try {
      if (Files.isRegularFile(file) || !begin(marker)) {
        return;
      }
      deleteUnused();
      Path made = file.resolveSibling(file.getFileName() + ".new");
      List<String> making = new ArrayList<>(MAKING);
      making.add(Integer.toString(seconds));
      making.addAll(List.of(marker.toString(), made.toString(), file.toString()));
      making.add(command.get(0));
      making.add("-XX:ArchiveClassesAtExit=" + made);
      making.addAll(command.subList(1, command.size()));
      ProcessBuilder builder =
          new ProcessBuilder(making)
              .redirectInput(new File("/dev/null"))
              .redirectOutput(ProcessBuilder.Redirect.DISCARD)
              .redirectError(ProcessBuilder.Redirect.DISCARD);
      builder.environment().putAll(environment);
      builder.start();
      log.debug("Making {}, with which the next node starts faster", file);
    } catch (IOException e) {
      log.debug("{} is not made", file, e);
    }
  }

  /** Claims the archive's making. Returns false if another process has. */
  private static boolean begin(Path marker) throws IOException {
    Files.createDirectories(marker.getParent());
    try {
      Files.createFile(marker);
      return true;
    } catch (FileAlreadyExistsException e) {
      if (!isOlder(marker, GIVEN_UP_AFTER)) {
        return false;
      }
      Files.setLastModifiedTime(marker, FileTime.from(Instant.now()));
      return true;
    }
  }

  private void deleteUnused() throws IOException {
    try (DirectoryStream<Path> archives =
        Files.newDirectoryStream(file.getParent(), "*.{jsa,new,making}")) {
      for (Path archive : archives) {
        if (isOlder(archive, UNUSED_AFTER)) {
          Files.deleteIfExists(archive);
        }
      }
    }
  }

  private static boolean isOlder(Path path, Duration age) throws IOException {
    return Files.getLastModifiedTime(path).toInstant().isBefore(Instant.now().minus(age));
  }

  /** The entries of a class path, in which {@code folder/*} stands for the folder's jars. */
  private static List<Path> jars(String classPath) throws IOException {
    List<Path> jars = new ArrayList<>();
    for (String entry : classPath.split(File.pathSeparator, -1)) {
      if (entry.endsWith(File.separator + "*")) {
        Path folder = Path.of(entry.substring(0, entry.length() - 2));
        try (DirectoryStream<Path> found = Files.newDirectoryStream(folder, "*.{jar,JAR}")) {
          TreeSet<Path> sorted = new TreeSet<>();
          found.forEach(sorted::add);
          jars.addAll(sorted);
        }
      } else if (!entry.isEmpty()) {
        jars.add(Path.of(entry));
      }
    }
    return jars;
  }

  private static void describe(Path path, StringBuilder key) throws IOException {
    BasicFileAttributes attributes = Files.readAttributes(path, BasicFileAttributes.class);
    key.append(path.toAbsolutePath()).append('\n');
    key.append(attributes.size()).append(' ').append(attributes.lastModifiedTime()).append('\n');
  }
}
