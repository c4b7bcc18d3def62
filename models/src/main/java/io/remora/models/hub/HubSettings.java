// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import com.typesafe.config.Config;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * The addresses of the hub and its cache, and the limits of their use. Environment variables of
 * {@code huggingface_hub} set some of them (see {@link #from}); the others come from this module's
 * {@code reference.conf}.
 *
 * @param endpoint the hub's address, without a slash at its end
 * @param token the token for the hub
 * @param cache the cache's folder; created when needed
 * @param offline whether to send no requests to the hub
 * @param connectTimeout how long connecting may take
 * @param stallTimeout how long a request may receive no byte
 * @param attempts how often in a row a request may fail without receiving a byte
 * @param retryDelay wait before the second attempt; doubles with each further attempt
 * @param maxRetryDelay longest wait, even if the hub asks for a longer one
 * @param parallelRequests number of files or pieces of files that are fetched at the same time
 * @param rangeBytes a file larger than this is fetched in pieces of this size
 */
public record HubSettings(
    URI endpoint,
    Optional<String> token,
    Path cache,
    boolean offline,
    Duration connectTimeout,
    Duration stallTimeout,
    int attempts,
    Duration retryDelay,
    Duration maxRetryDelay,
    int parallelRequests,
    long rangeBytes) {
  private static final Set<String> TRUE = Set.of("1", "ON", "YES", "TRUE");

  public HubSettings {
    require(
        endpoint.getHost() != null && Set.of("http", "https").contains(endpoint.getScheme()),
        "HF_ENDPOINT must be an http or https address",
        endpoint);
    require(
        positive(connectTimeout), "remora.hub.connect-timeout must be positive", connectTimeout);
    require(positive(stallTimeout), "remora.hub.stall-timeout must be positive", stallTimeout);
    require(attempts >= 1, "remora.hub.attempts must be at least 1", attempts);
    require(positive(retryDelay), "remora.hub.retry-delay must be positive", retryDelay);
    require(
        maxRetryDelay.compareTo(retryDelay) >= 0,
        "remora.hub.max-retry-delay must not be below remora.hub.retry-delay",
        maxRetryDelay);
    require(
        parallelRequests >= 1 && parallelRequests <= 64,
        "remora.hub.parallel-requests must be between 1 and 64",
        parallelRequests);
    require(
        rangeBytes >= 64 << 10 && rangeBytes <= 1L << 30,
        "remora.hub.range-size must be between 64 KiB and 1 GiB",
        rangeBytes);
  }

  /**
   * Reads the settings from a configuration that has the root {@code remora}, and from these
   * variables as {@code huggingface_hub} does: HF_ENDPOINT; HF_TOKEN, or the file HF_TOKEN_PATH,
   * unless HF_HUB_DISABLE_IMPLICIT_TOKEN; HF_HUB_CACHE, else {@code hub} in HF_HOME, else in {@code
   * huggingface} in XDG_CACHE_HOME or {@code ~/.cache}; HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE.
   *
   * @param environment such as {@link System#getenv()}
   */
  public static HubSettings from(Config root, Map<String, String> environment) {
    Config config = root.getConfig("remora.hub");
    Path home =
        path(environment, "HF_HOME")
            .orElseGet(
                () ->
                    path(environment, "XDG_CACHE_HOME")
                        .orElseGet(() -> userHome(environment).resolve(".cache"))
                        .resolve("huggingface"));
    return new HubSettings(
        URI.create(
            value(environment, "HF_ENDPOINT")
                .orElse("https://huggingface.co")
                .replaceAll("/+$", "")),
        token(environment, home),
        path(environment, "HF_HUB_CACHE")
            .or(() -> path(environment, "HUGGINGFACE_HUB_CACHE"))
            .orElseGet(() -> home.resolve("hub")),
        isTrue(
            value(environment, "HF_HUB_OFFLINE")
                .or(() -> value(environment, "TRANSFORMERS_OFFLINE"))),
        config.getDuration("connect-timeout"),
        config.getDuration("stall-timeout"),
        config.getInt("attempts"),
        config.getDuration("retry-delay"),
        config.getDuration("max-retry-delay"),
        config.getInt("parallel-requests"),
        config.getBytes("range-size"));
  }

  /** A copy with another token. */
  public HubSettings withToken(String newToken) {
    return new HubSettings(
        endpoint,
        Optional.of(newToken),
        cache,
        offline,
        connectTimeout,
        stallTimeout,
        attempts,
        retryDelay,
        maxRetryDelay,
        parallelRequests,
        rangeBytes);
  }

  /** Leaves out the token, which must not appear in a log. */
  @Override
  public String toString() {
    return "HubSettings[%s, cache %s%s%s]"
        .formatted(
            endpoint, cache, offline ? ", offline" : "", token.isPresent() ? ", with a token" : "");
  }

  private static Optional<String> token(Map<String, String> environment, Path home) {
    if (isTrue(value(environment, "HF_HUB_DISABLE_IMPLICIT_TOKEN"))) {
      return Optional.empty();
    }
    return value(environment, "HF_TOKEN")
        .or(() -> value(environment, "HUGGING_FACE_HUB_TOKEN"))
        .or(() -> read(path(environment, "HF_TOKEN_PATH").orElseGet(() -> home.resolve("token"))))
        .map(String::strip)
        .filter(token -> !token.isEmpty());
  }

  private static Optional<String> read(Path file) {
    try {
      return Optional.of(Files.readString(file));
    } catch (NoSuchFileException e) {
      return Optional.empty();
    } catch (IOException e) {
      throw new HubException("Cannot read the hub's token in " + file + ": " + e, e);
    }
  }

  private static Optional<Path> path(Map<String, String> environment, String name) {
    return value(environment, name)
        .map(
            value ->
                value.equals("~") || value.startsWith("~/")
                    ? userHome(environment).resolve(value.substring(1).replaceFirst("^/+", ""))
                    : Path.of(value));
  }

  private static Path userHome(Map<String, String> environment) {
    return Path.of(value(environment, "HOME").orElseGet(() -> System.getProperty("user.home")));
  }

  /** The value of a variable. An empty variable counts as not set. */
  private static Optional<String> value(Map<String, String> environment, String name) {
    return Optional.ofNullable(environment.get(name)).filter(value -> !value.isEmpty());
  }

  private static boolean isTrue(Optional<String> value) {
    return value.filter(text -> TRUE.contains(text.toUpperCase(Locale.ROOT))).isPresent();
  }

  private static boolean positive(Duration duration) {
    return !duration.isNegative() && !duration.isZero();
  }

  private static void require(boolean holds, String rule, Object value) {
    if (!holds) {
      throw new IllegalArgumentException(rule + ": " + value);
    }
  }
}
