// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** The settings in docs/providers.md are valid. */
class ProvidersGuideTest {

  private static final Path GUIDE = Path.of("../docs/providers.md");

  @Test
  @Tag("critical")
  void theExamplesAreSettings() throws IOException {
    List<String> blocks = settings();
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

  private static List<String> settings() throws IOException {
    return Pattern.compile("```hocon\\n(.*?)```", Pattern.DOTALL)
        .matcher(Files.readString(GUIDE))
        .results()
        .map(block -> block.group(1))
        .toList();
  }
}
