// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import java.time.Duration;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class SessionSettingsTest {
  private static final Config DEFAULTS = ConfigFactory.parseResources("reference.conf").resolve();

  @Test
  void everyKeyHasADefaultAndAReader() {
    SessionSettings settings = SessionSettings.from(DEFAULTS);
    assertThat(settings)
        .isEqualTo(
            new SessionSettings(
                64 << 10,
                Duration.ofNanos(200_000),
                Duration.ofMinutes(10),
                false,
                false,
                1 << 30,
                Duration.ofMillis(50),
                ""));
    // Each key is missed when it is not there, and there are no others.
    assertThat(DEFAULTS.getConfig("remora").entrySet())
        .hasSize(SessionSettings.class.getRecordComponents().length)
        .allSatisfy(
            entry ->
                assertThatThrownBy(
                        () ->
                            SessionSettings.from(DEFAULTS.withoutPath("remora." + entry.getKey())))
                    .isInstanceOf(ConfigException.Missing.class));
  }

  @Test
  void valuesOutOfRangeAreRefusedByKey() {
    assertThatThrownBy(
            () ->
                SessionSettings.from(
                    ConfigFactory.parseString("remora.batch.max-bytes = 12")
                        .withFallback(DEFAULTS)))
        .hasMessageContaining("remora.batch.max-bytes");
    assertThatThrownBy(
            () ->
                SessionSettings.from(
                    ConfigFactory.parseString("remora.session.read-timeout = 0 s")
                        .withFallback(DEFAULTS)))
        .hasMessageContaining("remora.session.read-timeout");
  }
}
