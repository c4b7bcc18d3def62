// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class ActorsSettingsTest {

  /** Only the defaults of this module and of the modules whose settings it reads. */
  private static final Config OWN =
      defaultsOf("actors")
          .withFallback(defaultsOf("link"))
          .withFallback(defaultsOf("provider-api"));

  private static Config defaultsOf(String module) {
    return ConfigFactory.parseFile(
        Path.of("..", module, "src", "main", "resources", "reference.conf").toFile());
  }

  @Test
  void everySettingHasADefaultHere() {
    ActorsSettings settings = ActorsSettings.from(OWN);

    assertThat(settings.openTimeout()).isEqualTo(Duration.ofMinutes(5));
    assertThat(settings.storageActorAfter()).isEqualTo(Duration.ofSeconds(1));
    assertThat(settings.link().maxInFlightBytes()).isEqualTo(64L << 20);
    assertThat(settings.link().maxFrameBytes()).isEqualTo(16 << 20);
    assertThat(settings.idleTimeout()).as("off").isNull();
    assertThat(settings.stateStore()).isEqualTo("directory");
    assertThat(settings.stateDirectory()).isAbsolute().endsWithRaw(Path.of(".remora", "state"));
  }

  @Test
  void everyKeyHasAReader() {
    List<String> keys =
        OWN
            .getConfig("remora")
            .withoutPath("cluster.embedded")
            .withoutPath("cluster.member")
            // The provider reads these; its test is in module gpu-node.
            .withoutPath("provider.address")
            .entrySet()
            .stream()
            .map(entry -> "remora." + entry.getKey())
            .toList();
    assertThat(keys).hasSizeGreaterThan(10);

    // An address at which remora.metrics.off-loopback matters.
    Config own = OWN.withValue("remora.metrics.http", ConfigValueFactory.fromAnyRef("0.0.0.0:0"));
    for (String key : keys) {
      Config without = (key.startsWith("remora.metrics.") ? own : OWN).withoutPath(key);
      assertThatThrownBy(() -> ActorsSettings.from(without))
          .as(key)
          .isInstanceOf(ConfigException.Missing.class);
    }
    for (String key : List.of("remora.cluster.embedded", "remora.cluster.member")) {
      assertThatThrownBy(() -> ActorsSettings.from(OWN.withoutPath(key)))
          .isInstanceOf(ConfigException.Missing.class);
    }
  }

  @Test
  void everyKeyIsExplained() throws Exception {
    for (String key :
        List.of("machine", "state", "link", "metrics", "cluster", "recovery", "recording")) {
      OWN.getConfig("remora." + key)
          .withoutPath("embedded")
          .withoutPath("member")
          .entrySet()
          .forEach(
              entry ->
                  assertThat(entry.getValue().origin().comments()).as(entry.getKey()).isNotEmpty());
    }
  }

  @Test
  void namesTheKeyOfAValueOutOfRange() {
    assertBad("remora.machine.open-timeout", "0 s");
    assertBad("remora.machine.stash-capacity", 0);
    assertBad("remora.machine.max-storage-actors", -1);
    assertBad("remora.machine.idle-timeout", "0 s");
    assertBad("remora.machine.pause-timeout", "0 s");
    assertBad("remora.machine.resume-retry", "0 s");
    assertBad("remora.link.max-frame-bytes", "1 KiB");
    assertBad("remora.link.max-frame-bytes", "2 GiB");
    assertBad("remora.link.chunk-bytes", "16 MiB");
    assertBad("remora.link.coalesce-batches", 0);
    assertBad("remora.link.max-unsent-bytes", 0);
    assertBad("remora.link.heartbeat-timeout", "2 s");
    assertBad("remora.link.connect-timeout", "0 s");
    assertBad("remora.link.give-up-after", "0 s");
    assertBad("remora.link.redial.min-backoff", "0 s");
    assertBad("remora.link.redial.max-backoff", "1 ms");
    assertBad("remora.link.redial.random-factor", 2);
    assertBad("remora.recovery.mode", "sometimes");
    assertBad("remora.recovery.checkpoint-interval", "0 s");
    assertBad("remora.recovery.checkpoint-bytes", 0);
    assertBad("remora.recovery.log-bytes", "1 MiB");
    assertBad("remora.recovery.give-up-after", "0 s");
    assertBad("remora.recovery.retry", "0 s");
    assertBad("remora.recording.max-waiting-bytes", 0);
    assertBad("remora.metrics.http", "localhost");
    assertBad("remora.metrics.http", "0.0.0.0:9100");
    assertBad("remora.metrics.http", "127.0.0.1:65536");
  }

  private static void assertBad(String key, Object value) {
    assertThatThrownBy(
            () -> ActorsSettings.from(OWN.withValue(key, ConfigValueFactory.fromAnyRef(value))))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining(key);
  }
}
