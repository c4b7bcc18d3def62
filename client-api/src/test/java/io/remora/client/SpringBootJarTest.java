// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.jar.Attributes;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;
import java.util.jar.JarOutputStream;
import java.util.jar.Manifest;
import java.util.stream.Stream;
import java.util.zip.CRC32;
import java.util.zip.Deflater;
import java.util.zip.ZipEntry;
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

  /** The layout is that of "The Executable Jar Format" in Spring Boot's reference. */
  private Path pack(Path classes) throws IOException {
    Manifest manifest = new Manifest();
    Attributes main = manifest.getMainAttributes();
    main.put(Attributes.Name.MANIFEST_VERSION, "1.0");
    main.put(Attributes.Name.MAIN_CLASS, JarLauncher.class.getName());
    main.putValue("Start-Class", "Application");
    main.putValue("Spring-Boot-Classes", "BOOT-INF/classes/");
    main.putValue("Spring-Boot-Lib", "BOOT-INF/lib/");
    Path loader = jarOf(JarLauncher.class);
    Path packed = folder.resolve("application.jar");
    try (JarOutputStream jar = new JarOutputStream(Files.newOutputStream(packed), manifest)) {
      jar.setLevel(Deflater.BEST_SPEED);
      copy(loader, jar);
      for (String directory : List.of("BOOT-INF/", "BOOT-INF/classes/", "BOOT-INF/lib/")) {
        jar.putNextEntry(new JarEntry(directory));
      }
      addFolder(classes, "BOOT-INF/classes/", jar);
      int number = 0;
      for (String element : System.getProperty("java.class.path").split(File.pathSeparator, -1)) {
        Path path = Path.of(element);
        if (!Files.exists(path) || path.equals(loader) || path.endsWith("test-classes")) {
          continue;
        }
        number++;
        store(Files.isDirectory(path) ? jarOfFolder(path, number) : path, number, jar);
      }
    }
    return packed;
  }

  private static Path jarOf(Class<?> type) {
    return Path.of(type.getProtectionDomain().getCodeSource().getLocation().getPath());
  }

  /** The classes of the loader stand at the top of the jar. */
  private static void copy(Path source, JarOutputStream jar) throws IOException {
    try (JarFile file = new JarFile(source.toFile())) {
      for (JarEntry entry : (Iterable<JarEntry>) file.stream()::iterator) {
        if (!entry.isDirectory() && entry.getName().endsWith(".class")) {
          jar.putNextEntry(new JarEntry(entry.getName()));
          file.getInputStream(entry).transferTo(jar);
        }
      }
    }
  }

  private Path jarOfFolder(Path classes, int number) throws IOException {
    Path file = folder.resolve("module-" + number + ".jar");
    try (OutputStream out = Files.newOutputStream(file);
        JarOutputStream jar = new JarOutputStream(out)) {
      jar.setLevel(Deflater.BEST_SPEED);
      addFolder(classes, "", jar);
    }
    return file;
  }

  private static void addFolder(Path source, String prefix, JarOutputStream jar)
      throws IOException {
    List<Path> files;
    try (Stream<Path> walk = Files.walk(source)) {
      files = walk.filter(Files::isRegularFile).toList();
    }
    for (Path file : files) {
      jar.putNextEntry(new JarEntry(prefix + source.relativize(file)));
      Files.copy(file, jar);
    }
  }

  /** Spring Boot reads libraries where they lie, so they are not compressed. */
  private static void store(Path library, int number, JarOutputStream jar) throws IOException {
    byte[] bytes = Files.readAllBytes(library);
    CRC32 sum = new CRC32();
    sum.update(bytes);
    JarEntry entry = new JarEntry("BOOT-INF/lib/" + number + "-" + library.getFileName());
    entry.setMethod(ZipEntry.STORED);
    entry.setSize(bytes.length);
    entry.setCrc(sum.getValue());
    jar.putNextEntry(entry);
    jar.write(bytes);
  }
}
