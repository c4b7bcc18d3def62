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
 * Where the hub and its cache are, and how they are used. What {@code huggingface_hub} has
 * variables for comes from these (see {@link #from}); the rest from this module's {@code
 * reference.conf}.
 *
 * @param endpoint the hub's address, without a slash at its end
 * @param token shown to the hub
 * @param cache the cache's folder; made when needed
 * @param offline never to ask the hub
 * @param connectTimeout how long connecting may take
 * @param stallTimeout how long a request may go without a byte coming in
 * @param attempts how often in a row a request may fail without a byte coming in
 * @param retryDelay before the second attempt; doubles with each
 * @param maxRetryDelay the longest, also where the hub asks for longer
 * @param parallelRequests how many files or pieces of files are fetched at a time
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

  /** The same, but for the token. */
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

  /** Without the token, which must not reach a log. */
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

  /** A variable that is set to nothing counts as not set. */
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
