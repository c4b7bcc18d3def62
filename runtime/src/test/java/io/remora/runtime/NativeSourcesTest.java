// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.runtime.internal.NativeCore;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class NativeSourcesTest {
  private static final Path MAIN = Path.of("src/main");

  @Test
  void theCommittedLibraryIsBuiltFromTheseSources() throws Exception {
    TorchLibrary.bytedeco();
    assertThat(NativeCore.sourceHash())
        .as("the native sources have changed: run runtime/build-native and commit the libraries")
        .isEqualTo(hashOfSources());
  }

  @Test
  void theLibraryIsBuiltForTheTorchItRunsOn() {
    assertThat(TorchLibrary.bytedeco().version()).isEqualTo("2.10.0");
    assertThat(NativeCore.wireVersion()).isEqualTo(Batch.WIRE_VERSION);
  }

  @Test
  void theCommittedLibrariesNameNoFolderOfTheMachineThatBuiltThem() throws Exception {
    try (Stream<Path> files =
        Files.list(MAIN.resolve("resources/io/remora/runtime/native/linux-x86_64"))) {
      assertThat(files)
          .isNotEmpty()
          .allSatisfy(
              file ->
                  assertThat(Files.readString(file, StandardCharsets.ISO_8859_1))
                      .doesNotContain("target/native/"));
    }
  }

  /** The sum of `sha256sum` lines, as runtime/build-native makes it. */
  private static String hashOfSources() throws Exception {
    MessageDigest sum = MessageDigest.getInstance("SHA-256");
    for (String name : sources()) {
      byte[] digest =
          MessageDigest.getInstance("SHA-256").digest(Files.readAllBytes(MAIN.resolve(name)));
      String line = HexFormat.of().formatHex(digest) + "  " + name + "\n";
      sum.update(line.getBytes(StandardCharsets.UTF_8));
    }
    return HexFormat.of().formatHex(sum.digest());
  }

  private static List<String> sources() throws IOException {
    try (Stream<Path> files = Files.walk(MAIN.resolve("cpp"))) {
      return Stream.concat(
              files.map(path -> MAIN.relativize(path).toString()),
              Stream.of("java/io/remora/runtime/internal/NativeCore.java"))
          .filter(name -> name.matches(".*(CMakeLists.txt|\\.cpp|\\.h|\\.java)"))
          .sorted()
          .toList();
    }
  }
}
