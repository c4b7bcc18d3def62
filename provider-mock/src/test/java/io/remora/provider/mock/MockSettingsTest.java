// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import io.remora.node.DeviceChoice;
import io.remora.provider.mock.MockSettings.Mode;
import java.nio.file.Path;
import java.util.Set;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@Tag("critical")
class MockSettingsTest {

  private static final Config REFERENCE =
      ConfigFactory.parseFile(Path.of("src/main/resources/reference.conf").toFile()).resolve();

  @Test
  void readsEveryKeyAndNoOther() {
    MockSettings.from(REFERENCE);

    Set<String> keys =
        REFERENCE.entrySet().stream().map(entry -> entry.getKey()).collect(Collectors.toSet());
    assertThat(keys).isNotEmpty();
    for (String key : keys) {
      assertThatThrownBy(() -> MockSettings.from(REFERENCE.withoutPath(key)))
          .as("%s has no reader", key)
          .isInstanceOf(ConfigException.Missing.class)
          .hasMessageContaining(key.substring(key.lastIndexOf('.') + 1));
    }
  }

  @Test
  void startsAChildOnTheCpuByDefaultAndLeavesACoreToTheProgram() {
    MockSettings settings = MockSettings.from(REFERENCE);

    assertThat(settings.mode()).isEqualTo(Mode.CHILD_JVM);
    assertThat(settings.device()).isEqualTo(DeviceChoice.CPU);
    assertThat(settings.childComputeThreads())
        .isEqualTo(Math.max(1, Runtime.getRuntime().availableProcessors() - 1));
  }

  @Test
  void aDryRunHasTheSameSettingsExceptForTheDevice() {
    assertThat(EstimateProvider.settings(REFERENCE))
        .isEqualTo(MockSettings.from(REFERENCE).withDevice(DeviceChoice.ESTIMATE));
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "mode = somewhere | remora.provider.mock.mode must be child-jvm or in-jvm",
        "device = tpu | use auto, cpu or cuda, xpu",
        "compute-threads = -1 | remora.provider.mock.compute-threads must be between 0 and 1024",
        "start-timeout = 0s | remora.provider.mock.start-timeout must be at least 1 s",
        "stop-timeout = -1s | remora.provider.mock.stop-timeout must not be negative",
        "{ mode = in-jvm, torch-home = /opt/torch } | torch-home is for mode child-jvm only"
      })
  void namesWhatIsWrong(String settings, String message) {
    Config config =
        ConfigFactory.parseString(
                settings.startsWith("{")
                    ? "remora.provider.mock " + settings
                    : "remora.provider.mock." + settings)
            .withFallback(REFERENCE);

    assertThatThrownBy(() -> MockSettings.from(config))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining(message);
  }
}
