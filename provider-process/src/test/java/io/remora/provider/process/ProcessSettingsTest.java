// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import java.nio.file.Path;
import java.util.Set;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@Tag("critical")
class ProcessSettingsTest {

  private static final Config REFERENCE =
      ConfigFactory.parseFile(Path.of("src/main/resources/reference.conf").toFile()).resolve();
  private static final Config WITH_COMMAND =
      ConfigFactory.parseString("remora.provider.process.command = [\"ssh\"]")
          .withFallback(REFERENCE);

  @Test
  void readsEveryKeyAndNoOther() {
    ProcessSettings.from(WITH_COMMAND);

    Set<String> keys = REFERENCE.getConfig(ProcessSettings.PATH).root().keySet();
    assertThat(keys).contains("command", "node-config");
    for (String key : keys) {
      assertThatThrownBy(
              () ->
                  ProcessSettings.from(WITH_COMMAND.withoutPath(ProcessSettings.PATH + "." + key)))
          .as("%s has no reader", key)
          .isInstanceOf(ConfigException.Missing.class)
          .hasMessageContaining(key);
    }
  }

  @Test
  void hasSecretsOnStandardInputAndCertificatesByDefault() {
    ProcessSettings settings = ProcessSettings.from(WITH_COMMAND);

    assertThat(settings.secretsFromStdin()).isTrue();
    assertThat(settings.tls()).isTrue();
    assertThat(settings.port()).isEmpty();
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "command = [] | command is empty",
        "secrets = arguments | secrets must be stdin or environment",
        "port = 0 | port must be announced, free or a number from 1 to 65535",
        "port = 70000 | port must be announced, free or a number",
        "start-timeout = 0s | start-timeout must be at least 1 s",
        "stop-timeout = -1s | stop-timeout must not be negative"
      })
  void namesWhatIsWrong(String setting, String message) {
    Config config =
        ConfigFactory.parseString("remora.provider.process { %s }".formatted(setting))
            .withFallback(WITH_COMMAND);

    assertThatThrownBy(() -> ProcessSettings.from(config))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("remora.provider.process.")
        .hasMessageContaining(message);
  }
}
