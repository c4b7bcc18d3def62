// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.consumers;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** What the build has deployed into the folder target/repository. */
final class Repository {

  static final String VERSION = System.getProperty("remora.test.version");

  static final Path FOLDER = Path.of("..", "target", "repository").toAbsolutePath().normalize();

  // A snapshot's files have a time and a number in place of the word.
  private static final String FILE_VERSION =
      VERSION.endsWith("-SNAPSHOT")
          ? Pattern.quote(VERSION.substring(0, VERSION.length() - "SNAPSHOT".length()))
              + "[0-9.]+-[0-9]+"
          : Pattern.quote(VERSION);

  private Repository() {}

  /** The names of the deployed artifacts. */
  static Set<String> artifacts() throws IOException {
    assertThat(FOLDER).as("deployed by the build in its verify phase").isDirectory();
    try (Stream<Path> folders = Files.list(FOLDER.resolve("io/remora"))) {
      return folders
          .filter(Files::isDirectory)
          .map(each -> each.getFileName().toString())
          .collect(TreeSet::new, Set::add, Set::addAll);
    }
  }

  /** The only deployed file of an artifact that ends like this, such as {@code -sources.jar}. */
  static Path file(String artifact, String ending) throws IOException {
    Pattern name = Pattern.compile(Pattern.quote(artifact + "-") + FILE_VERSION + ending);
    try (Stream<Path> files = Files.list(FOLDER.resolve("io/remora/" + artifact + "/" + VERSION))) {
      List<Path> found =
          files.filter(each -> name.matcher(each.getFileName().toString()).matches()).toList();
      assertThat(found).as("files %s", name).hasSize(1);
      return found.get(0);
    }
  }
}
