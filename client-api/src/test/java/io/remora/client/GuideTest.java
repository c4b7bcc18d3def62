// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** The settings in docs/java-api.md are those of reference.conf. */
@Tag("critical")
final class GuideTest {

  private static final Path GUIDE = Path.of("../docs/java-api.md");

  @Test
  void listsEverySetting() throws IOException {
    List<String> listed =
        Pattern.compile("^\\| `(remora\\.client\\.[a-z-]+)` ", Pattern.MULTILINE)
            .matcher(Files.readString(GUIDE))
            .results()
            .map((MatchResult row) -> row.group(1))
            .toList();

    assertThat(listed)
        .containsExactlyInAnyOrderElementsOf(
            ClientSettingsTest.REFERENCE.entrySet().stream().map(entry -> entry.getKey()).toList());
  }
}
