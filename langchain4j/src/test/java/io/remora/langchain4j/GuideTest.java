// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Pattern;
import javax.tools.ToolProvider;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The Java in docs/langchain4j.md compiles. */
@Tag("fast")
final class GuideTest {
  private static final String CLASS =
      """
      import io.remora.client.*;
      import dev.langchain4j.data.embedding.Embedding;
      import dev.langchain4j.model.chat.*;
      import dev.langchain4j.model.chat.response.*;
      import dev.langchain4j.model.embedding.EmbeddingModel;
      import io.remora.langchain4j.*;
      import java.util.List;

      abstract class Guide {
        RemoraLanguageModel loaded;

      %s
      }
      """;

  @TempDir private Path directory;

  @Test
  void everyBlockOfJavaCompiles() throws IOException {
    List<String> blocks =
        Pattern.compile("```java\\n(.*?)```", Pattern.DOTALL)
            .matcher(Files.readString(Path.of("../docs/langchain4j.md")))
            .results()
            .map(block -> block.group(1))
            .toList();
    assertThat(blocks).hasSizeGreaterThanOrEqualTo(3);
    StringBuilder methods = new StringBuilder();
    for (String block : blocks) {
      methods
          .append("void block%d() throws Exception {\n".formatted(blocks.indexOf(block)))
          .append(block)
          .append("}\n");
    }
    Path source =
        Files.writeString(directory.resolve("Guide.java"), CLASS.formatted(methods.toString()));
    var compiler = ToolProvider.getSystemJavaCompiler();
    StringWriter errors = new StringWriter();
    try (var files = compiler.getStandardFileManager(null, null, null)) {
      boolean compiled =
          compiler
              .getTask(
                  errors,
                  files,
                  null,
                  List.of("-proc:none", "-d", directory.toString()),
                  null,
                  files.getJavaFileObjects(source))
              .call();
      assertThat(compiled).as(errors.toString()).isTrue();
    }
  }
}
