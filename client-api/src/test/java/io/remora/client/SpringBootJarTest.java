// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;
import java.util.spi.ToolProvider;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.boot.loader.launch.JarLauncher;

/** A program in an executable jar with its libraries inside, as Spring Boot's plugin packs it. */
class SpringBootJarTest {

  @TempDir private Path folder;

  @Test
  @Tag("full")
  void aMockMachinesNodeRunsFromTheProgramsJar() throws Exception {
    ProgramRunner runner = new ProgramRunner(Files.createDirectory(folder.resolve("program")));
    runner.compile(
        "Application",
        """
        import io.remora.client.RemoteMachine;
        import static org.bytedeco.pytorch.global.torch.ones;
        import org.bytedeco.pytorch.global.torch.ScalarType;

        public class Application {
          public static void main(String[] args) {
            try (RemoteMachine machine = RemoteMachine.open("mock")) {
              var sum = ones(3).to(machine.device(), ScalarType.Float).sum();
              System.out.println("sum " + sum.item_float());
            }
          }
        }
        """);
    Path jar = pack(folder.resolve("program"));

    ProgramRunner.Outcome outcome = runner.await(runner.startJar(jar));

    assertThat(outcome.exitCode()).as(outcome.errors()).isZero();
    assertThat(outcome.output()).contains("sum 3.0");
  }

  /**
   * The layout is that of "The Executable Jar Format" in Spring Boot's reference. Nothing is
   * compressed, because Spring Boot reads libraries inside the jar in place.
   */
  private Path pack(Path classes) throws IOException {
    Path content = Files.createDirectory(folder.resolve("content"));
    Path loader =
        Path.of(JarLauncher.class.getProtectionDomain().getCodeSource().getLocation().getPath());
    extractClasses(loader, content);
    Path libraries = Files.createDirectories(content.resolve("BOOT-INF/lib"));
    Files.createSymbolicLink(content.resolve("BOOT-INF/classes"), classes);
    int number = 0;
    for (String element : System.getProperty("java.class.path").split(File.pathSeparator, -1)) {
      Path path = Path.of(element);
      if (!Files.exists(path) || path.equals(loader) || path.endsWith("test-classes")) {
        continue;
      }
      number++;
      if (Files.isDirectory(path)) {
        jar(libraries.resolve("module-" + number + ".jar"), path);
      } else {
        Files.createSymbolicLink(libraries.resolve(number + "-" + path.getFileName()), path);
      }
    }
    Path manifest =
        Files.writeString(
            folder.resolve("manifest"),
            """
            Main-Class: %s
            Start-Class: Application
            Spring-Boot-Classes: BOOT-INF/classes/
            Spring-Boot-Lib: BOOT-INF/lib/
            """
                .formatted(JarLauncher.class.getName()));
    return jar(folder.resolve("application.jar"), content, "--manifest=" + manifest);
  }

  /** Extracts the classes of a jar into a folder. */
  private static void extractClasses(Path jar, Path to) throws IOException {
    try (JarFile file = new JarFile(jar.toFile())) {
      for (JarEntry entry : (Iterable<JarEntry>) file.stream()::iterator) {
        if (entry.getName().endsWith(".class")) {
          Path target = to.resolve(entry.getName());
          Files.createDirectories(target.getParent());
          Files.copy(file.getInputStream(entry), target);
        }
      }
    }
  }

  /** Packs a folder's content with the JDK's tool. */
  private static Path jar(Path file, Path content, String... options) {
    List<String> arguments =
        new ArrayList<>(List.of("--create", "--no-compress", "--file=" + file));
    arguments.addAll(List.of(options));
    arguments.addAll(List.of("-C", content.toString(), "."));
    ToolProvider tool = ToolProvider.findFirst("jar").orElseThrow();
    assertThat(tool.run(System.out, System.err, arguments.toArray(String[]::new))).isZero();
    return file;
  }
}
