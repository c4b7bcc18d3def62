// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import java.time.Duration;
import java.util.Optional;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
final class GatewaySettingsTest {

  private static final Config REFERENCE = ConfigFactory.load();

  @Test
  void everySettingHasADefault() {
    GatewaySettings settings = GatewaySettings.from(REFERENCE);

    assertThat(settings.host()).isEqualTo("127.0.0.1");
    assertThat(settings.token()).isEmpty();
    assertThat(settings.tls()).isEmpty();
    assertThat(settings.maxMessageBytes()).isEqualTo(8 << 20);
    assertThat(settings.sessionLease()).isEqualTo(Duration.ofSeconds(30));
  }

  @Test
  void everyKeyOfTheReferenceFileIsRead() {
    Config gateway = REFERENCE.getConfig("remora.gateway");

    // The paths left out hold settings of Akka, which GatewaySettings does not read.
    assertThat(
            gateway.withoutPath("http").withoutPath("dispatcher").withoutPath("process").entrySet())
        .isNotEmpty()
        .allSatisfy(
            entry ->
                assertThatThrownBy(
                        () ->
                            GatewaySettings.from(
                                REFERENCE.withoutPath("remora.gateway." + entry.getKey())))
                    .as("%s has no reader", entry.getKey())
                    .isInstanceOf(ConfigException.Missing.class));
  }

  @Test
  void namesTheKeyOfAValueOutOfRange() {
    Config config =
        ConfigFactory.parseString("remora.gateway.max-sessions = 0").withFallback(REFERENCE);

    assertThatThrownBy(() -> GatewaySettings.from(config))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("remora.gateway.max-sessions must be at least 1");
  }

  @Test
  void theTokenOfActionsIsLongAndAnother() {
    Config config =
        ConfigFactory.parseString(
                "remora.gateway { token = 0123456789abcdef, dashboard.actions-token = ${remora.gateway.token} }")
            .resolve()
            .withFallback(REFERENCE);

    assertThatThrownBy(() -> GatewaySettings.from(config))
        .hasMessageContaining("dashboard.actions-token must not be the gateway's token");
    assertThatThrownBy(
            () ->
                GatewaySettings.from(
                    ConfigFactory.parseString("remora.gateway.dashboard.actions-token = short")
                        .withFallback(REFERENCE)))
        .hasMessageContaining("dashboard.actions-token must have at least 16 characters");
  }

  @Test
  void doesNotShowTheToken() {
    GatewaySettings settings =
        GatewaySettings.from(REFERENCE).withSecurity(Optional.of("sesame"), Optional.empty());

    assertThat(settings.toString()).doesNotContain("sesame");
    assertThat(
            new GatewaySettings.Dashboard(
                    true,
                    Optional.of("0123456789abcdef"),
                    Duration.ofMinutes(5),
                    Duration.ofHours(1))
                .toString())
        .doesNotContain("0123");
  }
}
