// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ProviderException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.URI;
import java.net.URISyntaxException;
import java.net.UnknownHostException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;
import java.util.stream.Stream;
import org.tomlj.Toml;
import org.tomlj.TomlParseResult;
import org.tomlj.TomlTable;

/**
 * The account to use. Its values come from the program's settings, or else from Modal's environment
 * variables, or else from the profile in {@code ~/.modal.toml}. Immutable.
 *
 * @param tokenId "ak-…"
 * @param tokenSecret "as-…"
 * @param environment the environment; empty for the account's default
 * @param server the control plane's address
 * @param builderVersion version of the image builder; empty for the environment's
 * @param maxThrottleWait longest wait that the server may ask for before a retry; empty for the
 *     time limit of the call
 */
record ModalAccount(
    String tokenId,
    String tokenSecret,
    String environment,
    URI server,
    String builderVersion,
    Optional<Duration> maxThrottleWait) {

  private static final String DEFAULT_SERVER = "https://api.modal.com";

  /** Checks that nothing is null. */
  ModalAccount {
    requireNonNull(tokenId, "tokenId");
    requireNonNull(tokenSecret, "tokenSecret");
    requireNonNull(environment, "environment");
    requireNonNull(server, "server");
    requireNonNull(builderVersion, "builderVersion");
    requireNonNull(maxThrottleWait, "maxThrottleWait");
  }

  /**
   * Finds the account.
   *
   * @param variables the process's environment
   * @param home the user's home folder
   * @throws AuthenticationException if there is no token; the message lists the places to put it
   * @throws ProviderException if the file or its contents cannot be used
   */
  static ModalAccount find(ModalSettings settings, Map<String, String> variables, Path home) {
    ModalSettings.Account said = settings.account();
    Path file =
        Optional.of(variables.getOrDefault("MODAL_CONFIG_PATH", ""))
            .filter(path -> !path.isBlank())
            .map(Path::of)
            .orElse(home.resolve(".modal.toml"));
    String profile =
        firstSet(said.profile(), variables.getOrDefault("MODAL_PROFILE", "")).orElse("");
    Function<String, String> inFile = profile(file, profile);
    Function<String, String> inEnvironment = name -> variables.getOrDefault(name, "");

    // A token id and its secret must come from the same place.
    String id;
    String secret;
    if (!said.tokenId().isBlank() || !said.tokenSecret().isBlank()) {
      id = said.tokenId();
      secret = said.tokenSecret();
    } else if (!inEnvironment.apply("MODAL_TOKEN_ID").isBlank()
        || !inEnvironment.apply("MODAL_TOKEN_SECRET").isBlank()) {
      id = inEnvironment.apply("MODAL_TOKEN_ID");
      secret = inEnvironment.apply("MODAL_TOKEN_SECRET");
    } else {
      id = inFile.apply("token_id");
      secret = inFile.apply("token_secret");
    }
    if (id.isBlank() || secret.isBlank()) {
      throw new AuthenticationException(
          ("there is no token for Modal%s: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or"
                  + " remora.provider.modal.token-id and token-secret, or run `modal token new`, "
                  + "which writes %s")
              .formatted(
                  id.isBlank() && secret.isBlank()
                      ? ""
                      : id.isBlank() ? " (only a secret)" : " (its secret is missing)",
                  file));
    }
    return new ModalAccount(
        id,
        secret,
        firstSet(
                said.environment(),
                inEnvironment.apply("MODAL_ENVIRONMENT"),
                inFile.apply("environment"))
            .orElse(""),
        server(
            firstSet(
                    said.serverUrl(),
                    inEnvironment.apply("MODAL_SERVER_URL"),
                    inFile.apply("server_url"))
                .orElse(DEFAULT_SERVER)),
        firstSet(
                settings.image().builderVersion(),
                inEnvironment.apply("MODAL_IMAGE_BUILDER_VERSION"),
                inFile.apply("image_builder_version"))
            .orElse(""),
        throttleWait(inEnvironment.apply("MODAL_MAX_THROTTLE_WAIT")));
  }

  boolean usesTls() {
    return server.getScheme().equals("https");
  }

  int port() {
    return server.getPort() > 0 ? server.getPort() : usesTls() ? 443 : 80;
  }

  /** Leaves out the token. */
  @Override
  public String toString() {
    return "ModalAccount(%s%s)"
        .formatted(server, environment.isEmpty() ? "" : ", environment " + environment);
  }

  private static Optional<String> firstSet(String... texts) {
    return Stream.of(texts).filter(text -> !text.isBlank()).findFirst();
  }

  /** The profile's values by key; an empty text if a value is not set. */
  private static Function<String, String> profile(Path file, String name) {
    if (!Files.exists(file)) {
      return key -> "";
    }
    TomlParseResult toml;
    try {
      toml = Toml.parse(file);
    } catch (IOException e) {
      throw new ProviderException(file + " cannot be read: " + e.getMessage(), e);
    }
    if (toml.hasErrors()) {
      // Leave out the parser's message: it may quote a line with a secret.
      throw new ProviderException(
          "%s is not TOML: an error at %s".formatted(file, toml.errors().get(0).position()));
    }
    if (!name.isEmpty()) {
      if (!(toml.get(List.of(name)) instanceof TomlTable chosen)) {
        throw new ProviderException(
            "%s has no profile %s; it has: %s"
                .formatted(file, name, String.join(", ", toml.keySet())));
      }
      return key -> text(chosen, key);
    }
    for (String each : toml.keySet()) {
      if (toml.get(List.of(each)) instanceof TomlTable table
          && Boolean.TRUE.equals(table.get("active"))) {
        return key -> text(table, key);
      }
    }
    return key -> "";
  }

  private static String text(TomlTable table, String key) {
    Object value = table.get(List.of(key));
    return value == null ? "" : value.toString();
  }

  /**
   * The server's address. Modal's own tools accept several, separated by commas; the first one is
   * used.
   */
  private static URI server(String urls) {
    String text = urls.split(",", -1)[0].strip();
    try {
      URI url = new URI(text);
      boolean plain = "http".equals(url.getScheme());
      if ((!plain && !"https".equals(url.getScheme())) || url.getHost() == null) {
        throw new ProviderException(
            "Modal's server must be https://HOST[:PORT], but is \"%s\" (remora.provider.modal.server-url)"
                .formatted(text));
      }
      if (plain && !InetAddress.getByName(url.getHost()).isLoopbackAddress()) {
        throw new ProviderException(
            "will not send a token to %s: http:// is for loopback addresses only"
                .formatted(url.getHost()));
      }
      return url;
    } catch (URISyntaxException | UnknownHostException e) {
      throw new ProviderException(
          "Modal's server \"%s\" cannot be used: %s".formatted(text, e.getMessage()), e);
    }
  }

  private static Optional<Duration> throttleWait(String seconds) {
    if (seconds.isBlank()) {
      return Optional.empty();
    }
    try {
      double value = Double.parseDouble(seconds.strip());
      if (value >= 0 && value < Integer.MAX_VALUE) {
        return Optional.of(Duration.ofMillis(Math.round(value * 1000)));
      }
    } catch (NumberFormatException e) {
      // Reported below.
    }
    throw new ProviderException(
        "MODAL_MAX_THROTTLE_WAIT must be a number of seconds, but is \"%s\"".formatted(seconds));
  }
}
