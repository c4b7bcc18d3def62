// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class FileSelectionTest {
  private static final List<String> PATHS =
      List.of(
          "README.md",
          "a/b/config.json",
          "config.json",
          "model.bin",
          "x[1].txt",
          "x1.txt",
          "é.txt");

  /** The results of Python's fnmatch. */
  @Test
  void patternsAreThoseOfFnmatch() {
    assertThat(selected("*.json")).containsExactly("a/b/config.json", "config.json");
    assertThat(selected("a/")).containsExactly("a/b/config.json");
    assertThat(selected("config.*")).containsExactly("config.json");
    assertThat(selected("?.txt")).containsExactly("é.txt");
    assertThat(selected("x[0-9].txt")).containsExactly("x1.txt");
    assertThat(selected("x[!0-9].txt")).isEmpty();
    assertThat(selected("x[[]1].txt")).containsExactly("x[1].txt");
    assertThat(selected("x[1].txt")).containsExactly("x1.txt");
    assertThat(selected("[")).isEmpty();
    assertThat(selected("readme.md")).isEmpty();
    assertThat(selected("**/config.json")).containsExactly("a/b/config.json");
    assertThat(FileSelection.patterns(List.of(), List.of("*.txt", "a/*", "*.md")).select(PATHS))
        .containsExactly("config.json", "model.bin");
  }

  private static List<String> selected(String pattern) {
    return FileSelection.patterns(List.of(pattern), List.of()).select(PATHS);
  }
}
