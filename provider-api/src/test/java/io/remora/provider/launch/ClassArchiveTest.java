// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.launch;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Tag("fast")
@Timeout(240)
class ClassArchiveTest {

  private static final Path JAVA = Path.of(System.getProperty("java.home"), "bin", "java");
  private static final String MAIN = EndsWithInput.class.getName();

  @TempDir Path folder;

  /** The main class of the JVMs here, which ends with its standard input as nodes do. */
  public static final class EndsWithInput {
    private EndsWithInput() {}

    public static void main(String[] arguments) throws IOException {
      System.in.readAllBytes();
    }
  }

  @Test
  void isMadeInTheBackgroundAndThenServesTheClasses() throws Exception {
    Path jar = jar("classes.jar");
    ClassArchive archive = archive(jar.toString());
    assertThat(archive.options()).isEmpty();

    archive.makeLater(command(jar, List.of()), Map.of(), 1);
    await().atMost(Duration.ofSeconds(100)).until(() -> !archive.options().isEmpty());

    assertThat(run(command(jar, archive.options())))
        .contains(MAIN + " source: shared objects file (top)");
    await()
        .atMost(Duration.ofSeconds(60))
        .untilAsserted(
            () ->
                assertThat(files(folder.resolve("archives")))
                    .allMatch(path -> path.toString().endsWith(".jsa"))
                    .hasSize(1));
  }

  @Test
  void isAnotherOneWhenAJarHasChanged() throws Exception {
    Path jar = jar("classes.jar");
    ClassArchive archive = archive(jar.toString());
    archive.makeLater(command(jar, List.of()), Map.of(), 1);
    await().atMost(Duration.ofSeconds(100)).until(() -> !archive.options().isEmpty());

    Files.write(jar, new byte[] {0}, java.nio.file.StandardOpenOption.APPEND);

    assertThat(archive(jar.toString()).options()).isEmpty();
  }

  @Test
  void isMadeByOneProcessOnly() throws Exception {
    Path jar = jar("classes.jar");
    archive(jar.toString()).makeLater(command(jar, List.of()), Map.of(), 3600);
    Path proof = folder.resolve("second");

    archive(jar.toString()).makeLater(List.of("/usr/bin/touch", proof.toString()), Map.of(), 0);

    try (Stream<ProcessHandle> children = ProcessHandle.current().children()) {
      List<ProcessHandle> making =
          children
              .filter(child -> child.info().commandLine().orElse("").contains(folder + "/archives"))
              .toList();
      assertThat(making).hasSize(1);
      making.forEach(child -> child.descendants().forEach(ProcessHandle::destroyForcibly));
      making.forEach(ProcessHandle::destroyForcibly);
    }
    assertThat(proof).doesNotExist();
  }

  @Test
  void doesNotExistForClassPathsWithFolders() throws Exception {
    Path jar = jar("classes.jar");
    assertThat(ClassArchive.of(folder, JAVA, jar + ":" + folder, MAIN)).isEmpty();
    assertThat(ClassArchive.of(folder, JAVA, jar + ":" + folder.resolve("missing.jar"), MAIN))
        .isEmpty();
    assertThat(ClassArchive.of(folder, JAVA, folder + "/*", MAIN)).isPresent();
  }

  private ClassArchive archive(String classPath) {
    return ClassArchive.of(folder.resolve("archives"), JAVA, classPath, MAIN).orElseThrow();
  }

  private static List<String> command(Path jar, List<String> options) {
    List<String> command = new ArrayList<>(List.of(JAVA.toString()));
    command.addAll(options);
    command.addAll(List.of("-cp", jar.toString(), MAIN));
    return command;
  }

  /** Runs the command without input, and returns where its classes come from. */
  private static String run(List<String> command) throws Exception {
    List<String> logging = new ArrayList<>(command);
    logging.add(1, "-Xlog:class+load");
    Process process = new ProcessBuilder(logging).redirectErrorStream(true).start();
    process.getOutputStream().close();
    return new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
  }

  private static List<Path> files(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files.toList();
    }
  }

  private Path jar(String name) throws IOException {
    String entry = MAIN.replace('.', '/') + ".class";
    Path jar = folder.resolve(name);
    try (JarOutputStream out = new JarOutputStream(Files.newOutputStream(jar));
        InputStream bytes = ClassArchiveTest.class.getResourceAsStream("/" + entry)) {
      out.putNextEntry(new JarEntry(entry));
      bytes.transferTo(out);
      out.closeEntry();
    }
    return jar;
  }
}
