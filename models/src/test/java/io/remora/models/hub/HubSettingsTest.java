// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
class HubSettingsTest {
  private static final Config DEFAULTS = ConfigFactory.parseResources("reference.conf").resolve();

  @Test
  void everyKeyHasADefaultAndAReader() {
    assertThat(settings(Map.of("HOME", "/home/u")))
        .isEqualTo(
            new HubSettings(
                URI.create("https://huggingface.co"),
                Optional.empty(),
                Path.of("/home/u/.cache/huggingface/hub"),
                false,
                Duration.ofSeconds(10),
                Duration.ofSeconds(30),
                5,
                Duration.ofSeconds(1),
                Duration.ofMinutes(5),
                8,
                16 << 20));
    assertThat(DEFAULTS.getConfig("remora.hub").entrySet())
        .hasSize(7)
        .allSatisfy(
            entry ->
                assertThatThrownBy(
                        () ->
                            HubSettings.from(
                                DEFAULTS.withoutPath("remora.hub." + entry.getKey()), Map.of()))
                    .isInstanceOf(ConfigException.Missing.class));
  }

  @Test
  void valuesOutOfRangeAreRefusedByKey() {
    for (String key :
        new String[] {
          "connect-timeout",
          "stall-timeout",
          "attempts",
          "retry-delay",
          "max-retry-delay",
          "parallel-requests",
          "range-size"
        }) {
      assertThatThrownBy(
              () ->
                  HubSettings.from(
                      ConfigFactory.parseString("remora.hub." + key + " = 0")
                          .withFallback(DEFAULTS),
                      Map.of()))
          .hasMessageContaining("remora.hub." + key);
    }
    assertThatThrownBy(() -> settings(Map.of("HF_ENDPOINT", "hub.example.org")))
        .hasMessageContaining("HF_ENDPOINT");
  }

  @Test
  void theVariablesAreThoseOfPythonsClient(@TempDir Path home) throws IOException {
    assertThat(settings(Map.of("XDG_CACHE_HOME", "/x")).cache())
        .isEqualTo(Path.of("/x/huggingface/hub"));
    assertThat(settings(Map.of("XDG_CACHE_HOME", "/x", "HF_HOME", "/h")).cache())
        .isEqualTo(Path.of("/h/hub"));
    assertThat(settings(Map.of("HF_HOME", "/h", "HF_HUB_CACHE", "~/c", "HOME", "/u")).cache())
        .isEqualTo(Path.of("/u/c"));
    assertThat(settings(Map.of("HF_ENDPOINT", "http://mirror:8080/")).endpoint())
        .isEqualTo(URI.create("http://mirror:8080"));
    assertThat(settings(Map.of("HF_HUB_OFFLINE", "yes")).offline()).isTrue();
    assertThat(settings(Map.of("TRANSFORMERS_OFFLINE", "1")).offline()).isTrue();
    assertThat(settings(Map.of("HF_HUB_OFFLINE", "0")).offline()).isFalse();
    Files.writeString(home.resolve("token"), " hf_file\n");
    String folder = home.toString();
    assertThat(settings(Map.of("HF_HOME", folder)).token()).contains("hf_file");
    assertThat(settings(Map.of("HF_HOME", folder, "HF_TOKEN", "hf_own")).token())
        .contains("hf_own");
    assertThat(settings(Map.of("HF_HOME", folder, "HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")).token())
        .isEmpty();
  }

  private static HubSettings settings(Map<String, String> environment) {
    return HubSettings.from(DEFAULTS, environment);
  }
}
