// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.consumers;

import static java.util.Objects.requireNonNull;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assumptions.assumeThat;

import io.remora.consumers.Commands.Result;
import java.io.File;
import java.io.IOException;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.jar.JarFile;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Programs that Maven and Gradle build with the deployed artifacts, one of them as one jar with
 * everything in it. Other artifacts come from the local repository of this build, in which nothing
 * of Remora is written.
 */
@Tag("full")
final class ConsumersTest {

  private static final Path LOCAL =
      Path.of(System.getProperty("remora.test.local-repository")).toAbsolutePath();

  private static final Pattern NAME = Pattern.compile("@([a-z.-]+)@");

  @TempDir private static Path folder;

  /** The class path of the program that Maven has built, its own classes included. */
  private static List<Path> classPath;

  private static Path oneJar;

  @BeforeAll
  static void build() throws Exception {
    Path project = project("maven");
    Path settings =
        Files.writeString(
            folder.resolve("settings.xml"),
            """
            <settings>
              <profiles>
                <profile>
                  <id>remora</id>
                  <repositories>
                    <repository>
                      <id>build</id>
                      <url>%s</url>
                    </repository>
                  </repositories>
                </profile>
              </profiles>
              <activeProfiles>
                <activeProfile>remora</activeProfile>
              </activeProfiles>
            </settings>
            """
                .formatted(Repository.FOLDER.toUri()));
    Commands.run(
            project,
            List.of(
                Path.of(System.getProperty("remora.test.maven-home"), "bin", "mvn").toString(),
                "-B",
                "-q",
                "-s",
                settings.toString(),
                "-Dmaven.repo.local=" + localRepository(),
                "package"))
        .good();
    classPath =
        Stream.concat(
                Stream.of(project.resolve("target/classes").toString()),
                Arrays.stream(
                    Files.readString(project.resolve("target/class-path.txt"))
                        .split(File.pathSeparator, -1)))
            .map(Path::of)
            .toList();
    oneJar = project.resolve("target/program-1-all.jar");
  }

  /**
   * A local repository with everything but Remora: a folder of links, so that nothing is copied,
   * what is downloaded is kept, and Remora's artifacts are gone with the folder.
   */
  private static Path localRepository() throws IOException {
    Path repository = Files.createDirectories(folder.resolve("repository"));
    Path io = Files.createDirectories(repository.resolve("io"));
    link(LOCAL, repository, "io");
    link(LOCAL.resolve("io"), io, "remora");
    return repository;
  }

  private static void link(Path from, Path to, String except) throws IOException {
    try (Stream<Path> entries = Files.list(from)) {
      for (Path each : (Iterable<Path>) entries::iterator) {
        if (!each.getFileName().toString().equals(except)) {
          Files.createSymbolicLink(to.resolve(each.getFileName()), each);
        }
      }
    }
  }

  /** A copy of a folder in src/test/projects, with what stands between at signs replaced. */
  private static Path project(String name) throws IOException {
    Path from = Path.of("src", "test", "projects", name);
    Path to = folder.resolve(name);
    try (Stream<Path> files = Files.walk(from)) {
      for (Path each : (Iterable<Path>) files.filter(Files::isRegularFile)::iterator) {
        Path copy = to.resolve(from.relativize(each));
        Files.createDirectories(copy.getParent());
        Files.writeString(
            copy,
            NAME.matcher(Files.readString(each))
                .replaceAll(match -> Matcher.quoteReplacement(value(match.group(1)))));
      }
    }
    return to;
  }

  private static String value(String name) {
    return switch (name) {
      case "version" -> Repository.VERSION;
      case "repository" -> Repository.FOLDER.toUri().toString();
      case "local-repository" -> LOCAL.toUri().toString();
      default -> requireNonNull(System.getProperty(name), name);
    };
  }

  @Test
  void aProgramBuiltByMavenComputes() throws Exception {
    assertThat(run(classPath).good().text()).contains("sum 3.0");
  }

  @Test
  void aProgramHasTheLibrariesThatRemoraIsTestedWith() throws IOException {
    Set<String> tested =
        Arrays.stream(
                Files.readString(Path.of("../client-api/target/class-path.txt"))
                    .split(File.pathSeparator, -1))
            .map(each -> Path.of(each).getFileName().toString())
            .collect(Collectors.toCollection(TreeSet::new));

    assertThat(classPath.stream().skip(1).map(each -> each.getFileName().toString()))
        .filteredOn(each -> !each.startsWith("remora-"))
        .isNotEmpty()
        .isSubsetOf(tested)
        .noneMatch(each -> each.matches(".*-(gpu|linux-arm64|macosx-.*|windows-.*)\\.jar"));
  }

  @Test
  void aProgramInOneJarComputes() throws Exception {
    Result result = Commands.run(folder, List.of(Commands.java(), "-jar", oneJar.toString()));

    assertThat(result.good().text()).contains("sum 3.0");
  }

  @Test
  void aJarWithOneOfTheConfigurationsSaysWhatToMerge() throws Exception {
    Path jar = Files.copy(oneJar, folder.resolve("configuration.jar"));
    replace(jar, "reference.conf", "akka-actor_2");

    Result result = Commands.run(folder, List.of(Commands.java(), "-jar", jar.toString()));

    assertThat(result.exitCode()).isOne();
    assertThat(result.text())
        .contains("RemoraException: the configuration has no remora.")
        .contains("reference.conf", "AppendingTransformer", "docs/getting-started.md");
  }

  @Test
  void aJarWithOneOfTheServiceFilesSaysWhatToMerge() throws Exception {
    Path jar = Files.copy(oneJar, folder.resolve("services.jar"));
    replace(jar, "META-INF/services/io.remora.provider.MachineProvider", "remora-actors");

    Result result = Commands.run(folder, List.of(Commands.java(), "-jar", jar.toString()));

    assertThat(result.exitCode()).isOne();
    assertThat(result.text()).contains("unknown provider \"mock\"", "META-INF/services");
  }

  /** Replaces a file of a jar by the one that a single library has, as a jar without merging. */
  private static void replace(Path jar, String name, String library) throws IOException {
    Path other =
        classPath.stream()
            .filter(each -> each.getFileName().toString().startsWith(library))
            .findFirst()
            .orElseThrow();
    try (FileSystem all = FileSystems.newFileSystem(jar);
        FileSystem one = FileSystems.newFileSystem(other)) {
      Files.copy(one.getPath(name), all.getPath(name), StandardCopyOption.REPLACE_EXISTING);
    }
  }

  @Test
  void aProgramWithoutNativesSaysWhatToAdd() throws Exception {
    for (String artifact : List.of("openblas", "pytorch")) {
      Result result =
          run(
              classPath.stream()
                  .filter(
                      each ->
                          !each.getFileName().toString().matches(artifact + "-.*-linux-x86_64.jar"))
                  .toList());

      assertThat(result.exitCode()).isOne();
      assertThat(result.text())
          .contains("RemoraException: libtorch does not load")
          .containsPattern("Add org.bytedeco:" + artifact + ":[0-9.-]+:linux-x86_64 ");
    }
  }

  @Test
  void aProgramBuiltByGradleComputes() throws Exception {
    Optional<Path> gradle = gradle();
    assumeThat(gradle).as("gradle is on the PATH").isPresent();
    Path project = project("gradle");
    Path source = Files.createDirectories(project.resolve("src/main/java"));
    Files.copy(folder.resolve("maven/src/main/java/Program.java"), source.resolve("Program.java"));

    Result result =
        Commands.run(
            project,
            List.of(
                gradle.orElseThrow().toString(),
                "--no-daemon",
                "--offline",
                "--gradle-user-home=" + folder.resolve("gradle-home"),
                "run",
                "printClassPath"));

    assertThat(result.good().text()).contains("sum 3.0");
    String jars =
        result.text().lines().filter(each -> each.startsWith("class path ")).findFirst().get();
    assertThat(jars)
        .contains("pytorch-", "linux-x86_64")
        .doesNotContain("remora-gateway-" + Repository.VERSION, "linux-arm64", "macosx", "windows");
  }

  private static Optional<Path> gradle() {
    return Arrays.stream(System.getenv("PATH").split(File.pathSeparator, -1))
        .map(each -> Path.of(each, "gradle"))
        .filter(Files::isExecutable)
        .findFirst();
  }

  private static Result run(List<Path> classPath) throws Exception {
    String path =
        classPath.stream().map(Path::toString).collect(Collectors.joining(File.pathSeparator));
    return Commands.run(folder, List.of(Commands.java(), "-cp", path, "Program"));
  }

  @Test
  void theLocalRepositoryOfTheBuildIsUnchanged() throws IOException {
    // Not there at all, unless somebody has installed it.
    Path remora = folder.resolve("repository/io/remora");
    assertThat(remora).isDirectory();
    assertThat(remora.toRealPath().startsWith(LOCAL.toRealPath())).isFalse();
    try (JarFile jar = new JarFile(oneJar.toFile())) {
      assertThat(jar.isMultiRelease()).isTrue();
    }
  }
}
