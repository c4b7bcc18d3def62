// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.architecture;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.architecture.Modules.Module;
import java.io.IOException;
import java.nio.file.Files;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** What the modules may use of each other, and that ARCHITECTURE.md says it. */
@Tag("critical")
final class ModulesTest {

  private static final String MARKER = "<!-- modules -->\n```\n";

  private Modules modules;

  @BeforeEach
  void read() throws IOException {
    modules = Modules.read();
  }

  @Test
  void areThoseOfTheDocument() throws IOException {
    String document = Files.readString(Modules.ROOT.resolve("ARCHITECTURE.md"));
    assertThat(document).contains(MARKER);
    String block = document.substring(document.indexOf(MARKER) + MARKER.length());
    List<String> shown =
        block
            .substring(0, block.indexOf("\n```"))
            .lines()
            .map(line -> line.strip().replaceAll("\\s+", " "))
            .toList();

    assertThat(shown)
        .containsExactlyInAnyOrderElementsOf(
            modules.all().stream().filter(Module::hasMainSources).map(ModulesTest::line).toList());
    Set<String> above = new LinkedHashSet<>();
    for (String line : shown) {
      List<String> words = List.of(line.replaceAll("->|[()]", " ").strip().split("\\s+"));
      assertThat(above)
          .as("modules above %s", words.get(0))
          .containsAll(words.subList(1, words.size()));
      above.add(words.get(0));
    }
  }

  private static String line(Module module) {
    List<String> uses =
        Stream.concat(
                module.uses(false).stream(), module.uses(true).stream().map("(%s)"::formatted))
            .toList();
    return uses.isEmpty() ? module.name() : module.name() + " -> " + String.join(" ", uses);
  }

  @Test
  void leaveServersCommandLinesAndLoggingBackendsToThePrograms() {
    assertThat(modules.withUse("client-api"))
        .contains("io.remora:remora-actors", "org.slf4j:slf4j-api")
        .doesNotContain(
            "io.remora:remora-gateway",
            "io.remora:remora-gpu-node",
            "io.remora:remora-command-line",
            "info.picocli:picocli",
            "ch.qos.logback:logback-classic");
  }

  @Test
  void haveNoLibtorchWhereNoTensorIsTouched() {
    assertThat(modules.withUse("gateway"))
        .contains("io.remora:remora-core", "io.remora:remora-actors")
        .doesNotContain("io.remora:remora-runtime")
        .noneMatch(each -> each.startsWith("org.bytedeco:"));
  }
}
