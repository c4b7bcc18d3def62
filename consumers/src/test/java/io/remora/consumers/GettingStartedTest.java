// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.consumers;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** The guide shows what the tests build. */
@Tag("critical")
final class GettingStartedTest {

  @Test
  void showsTheProgramsDependenciesAndItsJar() throws IOException {
    String guide = Files.readString(Path.of("../docs/getting-started.md"));
    String pom =
        Files.readString(Path.of("src/test/projects/maven/pom.xml"))
            .replace("${remora.version}", Repository.VERSION)
            .replace("@shade-plugin.version@", System.getProperty("shade-plugin.version"));

    assertThat(between(guide, "<!-- maven dependencies -->\n```xml\n", "```"))
        .isEqualTo(between(pom, "<!-- dependencies -->", "<!-- dependencies -->"));
    assertThat(between(guide, "<!-- one jar -->\n```xml\n", "```"))
        .isEqualTo(between(pom, "<!-- one jar -->", "<!-- one jar -->"));
    assertThat(guide).contains("io.remora:remora-bom:" + Repository.VERSION);
  }

  private static List<String> between(String text, String begin, String end) {
    assertThat(text).contains(begin);
    int from = text.indexOf(begin) + begin.length();
    return text.substring(from, text.indexOf(end, from))
        .strip()
        .lines()
        .map(String::strip)
        .toList();
  }
}
