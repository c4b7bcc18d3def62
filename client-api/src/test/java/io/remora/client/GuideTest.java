// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * The Java in the guides compiles, and the settings in docs/java-api.md are those of
 * reference.conf.
 */
@Tag("fast")
final class GuideTest {

  private static final Path GUIDE = Path.of("../docs/java-api.md");

  private static final String CLASS =
      """
      import static org.bytedeco.pytorch.global.torch.*;

      import com.typesafe.config.*;
      import io.remora.client.*;
      import io.remora.runtime.RemoteEvent;
      import java.nio.FloatBuffer;
      import java.nio.file.Path;
      import java.time.Duration;
      import java.util.Map;
      import org.bytedeco.javacpp.PointerScope;
      import org.bytedeco.pytorch.*;
      import org.bytedeco.pytorch.Module;

      abstract class Guide {
        RemoteMachine machine;
        LinearImpl model;
        Optimizer optimizer;
        Tensor images;
        Tensor labels;
        Map<String, Tensor> stateDict;
        int steps;

      %s
      }
      """;

  @TempDir private Path directory;

  @ParameterizedTest
  @ValueSource(strings = {"java-api.md", "models.md"})
  void everyBlockOfJavaCompiles(String guide) throws IOException {
    List<String> blocks =
        Pattern.compile("```java\\n(.*?)```", Pattern.DOTALL)
            .matcher(Files.readString(GUIDE.resolveSibling(guide)))
            .results()
            .map(block -> block.group(1).replace("RemoteMachine machine =", "machine ="))
            .toList();

    assertThat(blocks).hasSizeGreaterThanOrEqualTo(4);
    String methods =
        blocks.stream()
            .map(block -> "void block" + blocks.indexOf(block) + "() {\n" + block + "}\n")
            .collect(Collectors.joining("\n"));
    new ProgramRunner(directory).compile("Guide", CLASS.formatted(methods));
  }

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
