// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Optional;
import java.util.Set;

/**
 * The settings under {@code remora.gateway}; {@code reference.conf} says what each one means.
 *
 * @param host address to listen on
 * @param port port to listen on; 0 for any free one
 * @param token the secret that callers must show; empty for none
 * @param tls the gateway's certificate; empty for no TLS
 * @param maxMessageBytes largest gRPC message taken from a caller
 * @param maxSessions most sessions at a time
 * @param maxCallsPerSecond most calls a second of one peer
 * @param maxConnectionsPerPeer most connections of one peer at a time
 * @param handshakeTimeout limit from a connection to its first call, and from a session's call to
 *     its Hello
 * @param maxUnreceivedBytes most bytes kept of a session because its program has not received them
 * @param sessionLease how long a session waits for its program to come back
 * @param askTimeout limit for an answer from a machine's actor
 * @param openTimeout limit for opening a machine
 * @param closeTimeout limit for closing a machine
 * @param providerOptions provider settings that callers may give, without {@code
 *     remora.provider.<name>}
 * @param recordDirectory the folder in which callers may have sessions recorded; empty for none
 * @param dashboard the page for people
 * @param http the whole configuration with the gateway's own {@code akka.http.server}
 */
public record GatewaySettings(
    String host,
    int port,
    Optional<String> token,
    Optional<Tls> tls,
    int maxMessageBytes,
    int maxSessions,
    int maxCallsPerSecond,
    int maxConnectionsPerPeer,
    Duration handshakeTimeout,
    long maxUnreceivedBytes,
    Duration sessionLease,
    Duration askTimeout,
    Duration openTimeout,
    Duration closeTimeout,
    Set<String> providerOptions,
    Optional<Path> recordDirectory,
    Dashboard dashboard,
    Config http) {

  private static final int LARGEST_MESSAGE = 1 << 30;

  /**
   * Files in PEM format.
   *
   * @param certificate the certificate with its chain
   * @param privateKey its private key, not encrypted
   */
  public record Tls(Path certificate, Path privateKey) {}

  /**
   * The page at {@code /dashboard}.
   *
   * @param enabled whether it is served
   * @param actionsToken the secret with which its readers may pause, resume and stop machines;
   *     empty if nobody may
   * @param history how much of the past its plots have
   * @param loginTime how long a login lasts
   */
  public record Dashboard(
      boolean enabled, Optional<String> actionsToken, Duration history, Duration loginTime) {

    private static final Duration LEAST_HISTORY = Duration.ofMinutes(1);
    private static final Duration MOST_HISTORY = Duration.ofHours(1);
    private static final int SHORTEST_TOKEN = 16;

    /** Checks the ranges. */
    public Dashboard {
      check(
          actionsToken.isEmpty() || actionsToken.get().length() >= SHORTEST_TOKEN,
          "dashboard.actions-token must have at least %d characters".formatted(SHORTEST_TOKEN));
      check(
          history.compareTo(LEAST_HISTORY) >= 0 && history.compareTo(MOST_HISTORY) <= 0,
          "dashboard.history must be between 1 minute and 1 hour, is " + history);
      checkPositive(loginTime, "dashboard.login-time");
    }

    private static Dashboard from(Config dashboard) {
      return new Dashboard(
          dashboard.getBoolean("enabled"),
          text(dashboard, "actions-token"),
          dashboard.getDuration("history"),
          dashboard.getDuration("login-time"));
    }

    /** Leaves out the token. */
    @Override
    public String toString() {
      return "Dashboard(%s, %s)"
          .formatted(enabled ? "on" : "off", actionsToken.isPresent() ? "actions" : "no actions");
    }
  }

  /** Checks the ranges. */
  public GatewaySettings {
    requireNonNull(host, "host");
    requireNonNull(http, "http");
    providerOptions = Set.copyOf(providerOptions);
    check(port >= 0 && port <= 65535, "port must be between 0 and 65535, is " + port);
    check(
        maxMessageBytes >= 64 * 1024 && maxMessageBytes <= LARGEST_MESSAGE,
        "max-message-bytes must be between 64 KiB and 1 GiB, is " + maxMessageBytes);
    check(maxSessions >= 1, "max-sessions must be at least 1, is " + maxSessions);
    check(
        maxCallsPerSecond >= 1, "max-calls-per-second must be at least 1, is " + maxCallsPerSecond);
    check(
        maxConnectionsPerPeer >= 1,
        "max-connections-per-peer must be at least 1, is " + maxConnectionsPerPeer);
    checkPositive(handshakeTimeout, "handshake-timeout");
    check(
        maxUnreceivedBytes >= 64 * 1024,
        "max-unreceived-bytes must be at least 64 KiB, is " + maxUnreceivedBytes);
    checkPositive(sessionLease, "session-lease");
    checkPositive(askTimeout, "ask-timeout");
    check(
        dashboard.actionsToken().isEmpty() || !dashboard.actionsToken().equals(token),
        "dashboard.actions-token must not be the gateway's token");
  }

  /**
   * Reads {@code remora.gateway}, and the limits of {@code remora.machine}.
   *
   * @param root the whole configuration, with the defaults of {@code reference.conf}
   * @throws IllegalArgumentException if a value is out of range; the message names the key
   */
  public static GatewaySettings from(Config root) {
    Config gateway = root.getConfig("remora.gateway");
    Config machine = root.getConfig("remora.machine");
    long maxMessageBytes = gateway.getBytes("max-message-bytes");
    return new GatewaySettings(
        gateway.getString("host"),
        gateway.getInt("port"),
        text(gateway, "token"),
        tls(gateway.getString("tls.certificate"), gateway.getString("tls.private-key")),
        (int) Math.min(maxMessageBytes, Integer.MAX_VALUE),
        gateway.getInt("max-sessions"),
        gateway.getInt("max-calls-per-second"),
        gateway.getInt("max-connections-per-peer"),
        gateway.getDuration("handshake-timeout"),
        gateway.getBytes("max-unreceived-bytes"),
        gateway.getDuration("session-lease"),
        gateway.getDuration("ask-timeout"),
        machine.getDuration("open-timeout"),
        machine.getDuration("close-timeout"),
        Set.copyOf(gateway.getStringList("provider-options")),
        text(gateway, "record-directory")
            .map(folder -> Path.of(folder).toAbsolutePath().normalize()),
        Dashboard.from(gateway.getConfig("dashboard")),
        gateway.getConfig("http").atPath("akka.http.server").withFallback(root));
  }

  /** A copy with another address. */
  public GatewaySettings withAddress(String newHost, int newPort) {
    return with(newHost, newPort, token, tls);
  }

  /** A copy with another token and other TLS files. */
  public GatewaySettings withSecurity(Optional<String> newToken, Optional<Tls> newTls) {
    return with(host, port, newToken, newTls);
  }

  private GatewaySettings with(
      String newHost, int newPort, Optional<String> newToken, Optional<Tls> newTls) {
    return new GatewaySettings(
        newHost,
        newPort,
        newToken,
        newTls,
        maxMessageBytes,
        maxSessions,
        maxCallsPerSecond,
        maxConnectionsPerPeer,
        handshakeTimeout,
        maxUnreceivedBytes,
        sessionLease,
        askTimeout,
        openTimeout,
        closeTimeout,
        providerOptions,
        recordDirectory,
        dashboard,
        http);
  }

  /** Leaves out the token. */
  @Override
  public String toString() {
    return "GatewaySettings(%s:%d, %s, %s)"
        .formatted(
            host, port, tls.isPresent() ? "TLS" : "no TLS", token.isPresent() ? "token" : "open");
  }

  private static Optional<String> text(Config config, String key) {
    return Optional.of(config.getString(key)).filter(value -> !value.isBlank());
  }

  private static Optional<Tls> tls(String certificate, String privateKey) {
    if (certificate.isBlank() && privateKey.isBlank()) {
      return Optional.empty();
    }
    check(
        !certificate.isBlank() && !privateKey.isBlank(),
        "tls.certificate and tls.private-key must be set together");
    return Optional.of(new Tls(Path.of(certificate), Path.of(privateKey)));
  }

  private static void checkPositive(Duration value, String key) {
    check(!value.isZero() && !value.isNegative(), key + " must be positive, is " + value);
  }

  private static void check(boolean condition, String message) {
    if (!condition) {
      throw new IllegalArgumentException("remora.gateway." + message);
    }
  }
}
