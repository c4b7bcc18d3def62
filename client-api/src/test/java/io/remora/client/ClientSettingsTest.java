// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import java.io.File;
import java.time.Duration;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
final class ClientSettingsTest {

  static final Config REFERENCE =
      ConfigFactory.parseFile(new File("src/main/resources/reference.conf"))
          .resolve()
          .withOnlyPath("remora.client");

  @Test
  void everySettingHasADefaultInTheReferenceFile() {
    ClientSettings settings = ClientSettings.from(REFERENCE);

    assertThat(settings.openTimeout()).isEqualTo(Duration.ofMinutes(5));
    assertThat(settings.shutdownTimeout()).isEqualTo(Duration.ofSeconds(5));
  }

  @Test
  void everyKeyOfTheReferenceFileIsRead() {
    assertThat(REFERENCE.entrySet())
        .isNotEmpty()
        .allSatisfy(
            entry ->
                assertThatThrownBy(() -> ClientSettings.from(REFERENCE.withoutPath(entry.getKey())))
                    .as("%s has no reader", entry.getKey())
                    .isInstanceOf(ConfigException.Missing.class));
  }

  @Test
  void namesTheKeyOfAValueOutOfRange() {
    Config config =
        ConfigFactory.parseString("remora.client.ask-timeout = 1 ms").withFallback(REFERENCE);

    assertThatThrownBy(() -> ClientSettings.from(config))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("remora.client.ask-timeout must be at least");
  }
}
