// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ProviderException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@Tag("critical")
class ModalAccountTest {

  private static final String FILE =
      """
      [work]
      token_id = "ak-work"
      token_secret = "as-work"
      environment = "lab"
      active = true

      ["my own"]
      token_id = "ak-own"
      token_secret = "as-own"
      server_url = "https://modal.example.org:8443"
      image_builder_version = "2025.06"
      """;

  @TempDir private Path home;

  @Test
  void takesTheActiveProfileOfTheFile() throws IOException {
    file(FILE);

    ModalAccount account = find("", Map.of());

    assertThat(account.tokenId()).isEqualTo("ak-work");
    assertThat(account.tokenSecret()).isEqualTo("as-work");
    assertThat(account.environment()).isEqualTo("lab");
    assertThat(account.server()).hasToString("https://api.modal.com");
    assertThat(account.port()).isEqualTo(443);
  }

  @Test
  void takesANamedProfileOfAFileElsewhere() throws IOException {
    Path elsewhere = home.resolve("elsewhere.toml");
    Files.writeString(elsewhere, FILE);

    ModalAccount account =
        find("", Map.of("MODAL_CONFIG_PATH", elsewhere.toString(), "MODAL_PROFILE", "my own"));

    assertThat(account.tokenId()).isEqualTo("ak-own");
    assertThat(account.environment()).isEmpty();
    assertThat(account.port()).isEqualTo(8443);
    assertThat(account.builderVersion()).isEqualTo("2025.06");
    assertThat(find("profile = work", Map.of("MODAL_CONFIG_PATH", elsewhere.toString())).tokenId())
        .isEqualTo("ak-work");
  }

  @Test
  void prefersSettingsToTheEnvironmentAndThatToTheFile() throws IOException {
    file(FILE);
    Map<String, String> variables =
        Map.of(
            "MODAL_TOKEN_ID", "ak-variable",
            "MODAL_TOKEN_SECRET", "as-variable",
            "MODAL_ENVIRONMENT", "test",
            "MODAL_MAX_THROTTLE_WAIT", "2.5");

    ModalAccount account = find("", variables);
    assertThat(account.tokenId()).isEqualTo("ak-variable");
    assertThat(account.environment()).isEqualTo("test");
    assertThat(account.maxThrottleWait()).contains(Duration.ofMillis(2500));

    account = find("token-id = ak-said, token-secret = as-said, environment = mine", variables);
    assertThat(account.tokenId()).isEqualTo("ak-said");
    assertThat(account.tokenSecret()).isEqualTo("as-said");
    assertThat(account.environment()).isEqualTo("mine");
  }

  @Test
  void doesNotMakeATokenOfPartsFromTwoPlaces() throws IOException {
    file(FILE);

    assertThatThrownBy(() -> find("token-id = ak-said", Map.of("MODAL_TOKEN_SECRET", "as-other")))
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("its secret is missing");
  }

  @Test
  void saysWhereATokenMayStand() {
    assertThatThrownBy(() -> find("", Map.of()))
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("MODAL_TOKEN_ID")
        .hasMessageContaining(home.resolve(".modal.toml").toString());
  }

  @Test
  void namesTheProfilesThereAre() throws IOException {
    file(FILE);

    assertThatThrownBy(() -> find("profile = other", Map.of()))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("no profile other; it has: work, my own");
  }

  @Test
  void doesNotQuoteAFileThatItCannotRead() throws IOException {
    file("[work]\ntoken_secret = as-hidden\n");

    assertThatThrownBy(() -> find("", Map.of()))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("line 2")
        .hasMessageNotContaining("hidden");
  }

  @ParameterizedTest
  @ValueSource(strings = {"http://api.example.org", "ftp://api.modal.com", "https:///x", "a b"})
  void sendsNoTokenToAnywhere(String url) {
    assertThatThrownBy(
            () -> find("token-id = ak, token-secret = as, server-url = '" + url + "'", Map.of()))
        .isInstanceOf(ProviderException.class);
  }

  @Test
  void takesTheFirstOfSeveralServersAndPlainHttpOnLoopback() {
    String token = "token-id = ak, token-secret = as, ";

    assertThat(find(token + "server-url = 'https://a.test,https://b.test'", Map.of()).server())
        .hasToString("https://a.test");
    ModalAccount local = find(token + "server-url = 'http://127.0.0.1:5001'", Map.of());
    assertThat(local.usesTls()).isFalse();
    assertThat(local.port()).isEqualTo(5001);
    assertThat(local.toString()).isEqualTo("ModalAccount(http://127.0.0.1:5001)");
  }

  private void file(String text) throws IOException {
    Files.writeString(home.resolve(".modal.toml"), text);
  }

  private ModalAccount find(String settings, Map<String, String> variables) {
    return ModalAccount.find(ModalSettingsTest.with(settings), variables, home);
  }
}
