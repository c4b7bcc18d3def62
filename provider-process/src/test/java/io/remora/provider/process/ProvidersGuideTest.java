// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import java.io.IOException;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.regex.Pattern;
import javax.tools.JavaCompiler;
import javax.tools.StandardJavaFileManager;
import javax.tools.ToolProvider;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The Java in docs/providers.md compiles, and its settings are valid. */
class ProvidersGuideTest {

  private static final Path GUIDE = Path.of("../docs/providers.md");

  /** The classes that the skeleton assumes. */
  private static final String CLOUD =
      """
      import akka.Done;
      import com.typesafe.config.Config;
      import io.remora.actors.link.*;
      import io.remora.provider.*;
      import io.remora.provider.launch.*;
      import io.remora.runtime.*;
      import java.net.InetSocketAddress;
      import java.time.Duration;
      import java.util.*;
      import java.util.concurrent.*;

      interface Cloud {
        static Cloud connect(Config config) {
          throw new UnsupportedOperationException();
        }
        String create(GpuType type, int count, Map<String, String> environment);
        boolean isRunning(String id);
        String state(String id);
        void awaitChange(String id, Duration limit);
        InetSocketAddress address(String id);
        CompletionStage<String> ended(String id);
        CompletionStage<Void> deleted(String id);
        void delete(String id);
      }

      """;

  @TempDir private Path folder;

  @Test
  @Tag("fast")
  void theSkeletonCompiles() throws IOException {
    List<String> blocks = blocks("java");
    assertThat(blocks).hasSize(1);
    Path file = folder.resolve("CloudProvider.java");
    Files.writeString(file, CLOUD + blocks.get(0));

    JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
    StringWriter messages = new StringWriter();
    try (StandardJavaFileManager files =
        compiler.getStandardFileManager(null, null, StandardCharsets.UTF_8)) {
      boolean compiled =
          compiler
              .getTask(
                  messages,
                  files,
                  null,
                  List.of(
                      "-d",
                      folder.toString(),
                      "-cp",
                      System.getProperty("java.class.path"),
                      "-proc:none"),
                  null,
                  files.getJavaFileObjects(file))
              .call();
      assertThat(compiled).as(messages.toString()).isTrue();
    }
  }

  @Test
  @Tag("critical")
  void theExamplesAreSettings() throws IOException {
    List<String> blocks = blocks("hocon");
    assertThat(blocks).hasSize(4);
    for (String block : blocks) {
      ProcessSettings settings =
          ProcessSettings.from(
              ConfigFactory.parseString(block).withFallback(ConfigFactory.load()).resolve());
      MachineSpec spec =
          new MachineSpec("trainer", "process", GpuType.H100, 2, null, Duration.ofMinutes(1));
      CommandTemplate template =
          new CommandTemplate(spec, "l1", settings.port().isPresent() ? 7000 : 0);

      String command = String.join(" ", template.fill(settings.command()));
      assertThat(command)
          .contains("io.remora.node.Main", "--exit-with-stdin")
          .doesNotContain("{launch}", "{port}", "{gpu-count}");
      assertThat(command.contains("--secrets-from-stdin")).isEqualTo(settings.secretsFromStdin());
      template.fill(settings.endCommand());
    }
  }

  private static List<String> blocks(String language) throws IOException {
    return Pattern.compile("```%s\\n(.*?)```".formatted(language), Pattern.DOTALL)
        .matcher(Files.readString(GUIDE))
        .results()
        .map(block -> block.group(1))
        .toList();
  }
}
