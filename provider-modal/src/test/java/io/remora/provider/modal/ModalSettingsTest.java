// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import io.remora.provider.GpuTable;
import io.remora.provider.GpuType;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@Tag("critical")
class ModalSettingsTest {

  static final Config REFERENCE =
      ConfigFactory.parseFile(Path.of("src/main/resources/reference.conf").toFile()).resolve();

  /** Settings whose keys users choose. */
  private static final List<String> TABLES = List.of("prices.gpu-hour");

  @Test
  void readsEveryKeyAndNoOther() {
    ModalSettings.from(REFERENCE);

    Set<String> keys =
        REFERENCE.entrySet().stream()
            .map(entry -> entry.getKey())
            .map(
                key ->
                    TABLES.stream()
                        .map(table -> ModalSettings.PATH + "." + table)
                        .filter(key::startsWith)
                        .findFirst()
                        .orElse(key))
            .collect(Collectors.toSet());
    keys.add(ModalSettings.PATH + ".node.environment");
    assertThat(keys).hasSizeGreaterThan(30);
    for (String key : keys) {
      assertThatThrownBy(() -> ModalSettings.from(REFERENCE.withoutPath(key)))
          .as("%s has no reader", key)
          .isInstanceOf(ConfigException.Missing.class)
          .hasMessageContaining(key.substring(key.lastIndexOf('.') + 1));
    }
  }

  @Test
  void knowsAPriceOfEachKindOfGpu() {
    assertThat(ModalSettings.from(REFERENCE).prices().gpuHour())
        .containsOnlyKeys(Arrays.stream(GpuType.values()).map(GpuType::displayName).toList());
  }

  @Test
  void theTableOfDryRunsHasThesePrices() {
    assertThat(GpuTable.known().gpus())
        .extracting(GpuTable.Gpu::name)
        .containsExactlyInAnyOrderElementsOf(
            Arrays.stream(GpuType.values())
                .filter(type -> type != GpuType.A100) // of any size
                .map(GpuType::displayName)
                .toList());
    assertThat(GpuTable.known().gpus())
        .allSatisfy(
            gpu ->
                assertThat(ModalSettings.from(REFERENCE).prices().gpuHour())
                    .containsEntry(gpu.name(), gpu.dollarsPerHour()));
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "cpu = 0 | remora.provider.modal.cpu must be at least 0.125",
        "memory = 1 MiB | remora.provider.modal.memory must be at least 512 MiB",
        "life-time = 25h | remora.provider.modal.life-time must be between 1 minute and 24 hours",
        "idle-timeout = 1s | remora.provider.modal.idle-timeout must be at least PT2M",
        "port = 0 | remora.provider.modal.port must be between 1 and 65535",
        "owner-lease = 1s | remora.provider.modal.owner-lease must be at least PT1M",
        "app = 'a b' | remora.provider.modal.app has up to 63",
        "image { id = im-1, name = two } | at most one may be set",
        "node.device = tpu | remora.provider.modal.node.device must be cuda, cpu or auto",
        "node.environment { \"A B\" = x } | a variable's name",
        "prices.core-hour = -1 | prices must not be negative"
      })
  void namesWhatIsWrong(String settings, String message) {
    assertThatThrownBy(() -> with(settings))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining(message);
  }

  @Test
  void theGuideNamesSettingsThatThereAre() throws IOException {
    String guide = Files.readString(Path.of("../docs/modal.md"));
    List<String> named =
        Pattern.compile("(?<!io\\.)remora\\.provider\\.modal\\.([a-z0-9.-]+[a-z0-9])")
            .matcher(guide)
            .results()
            .map(match -> match.group(1))
            .toList();
    assertThat(named).contains("prices", "gpu");
    for (String key : named) {
      assertThat(REFERENCE.hasPath(ModalSettings.PATH + "." + key)).as(key).isTrue();
    }

    Matcher hocon = Pattern.compile("(?s)```hocon\n(.*?)```").matcher(guide);
    assertThat(hocon.find()).isTrue();
    Config said = ConfigFactory.parseString(hocon.group(1)).resolve();
    ModalSettings settings = ModalSettings.from(said.withFallback(REFERENCE));
    assertThat(settings.sandbox().i6pn()).isTrue();
    assertThat(settings.node().arguments()).contains("--seed-nodes");
    said.entrySet()
        .forEach(
            entry -> assertThat(REFERENCE.hasPath(entry.getKey())).as(entry.getKey()).isTrue());
  }

  @Test
  void doesNotShowSecrets() {
    assertThat(with("token-secret = as-hidden, node.environment.KEY = hidden").toString())
        .doesNotContain("hidden");
  }

  /** The reference configuration with these settings of the provider laid over it. */
  static ModalSettings with(String settings) {
    return ModalSettings.from(config(settings));
  }

  static Config config(String settings) {
    return ConfigFactory.parseString(
            ModalSettings.PATH + " { " + settings.replace('\'', '"') + " }")
        .withFallback(REFERENCE);
  }
}
