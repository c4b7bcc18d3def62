// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.typesafe.config.Config;
import io.remora.actors.link.LinkSettings;
import io.remora.metrics.HttpEndpoint;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/**
 * The configuration of a node, {@code remora.node} in {@code reference.conf}, where each key is
 * explained. Immutable.
 *
 * @param orphanTimeout time without an owner's connection after which the node ends; 1 s or more
 * @param sessionLease time a link's sessions live without a connection; 1 s or more, and not
 *     shorter than {@code remora.link.give-up-after}
 * @param maxUnconfirmedBytes most bytes of unconfirmed results kept for a session; above this it
 *     executes nothing; 4 MiB or more
 * @param tokenLifetime time within which an issued token must be used; 1 s or more
 * @param shutdownGrace time an ending node waits for running operators; not negative
 * @param noticeGrace time that a node which gets a signal to end leaves its machines to move to
 *     another; not negative
 * @param lifeTime how long the node's computer lives; zero if that is not known
 * @param lifeTimeNotice how long before its end the node gives notice; positive
 * @param computeThreads threads of libtorch's CPU operators, 0 for libtorch's default
 * @param maxConnections connections open at the same time, 1 to 1024
 * @param maxSessions sessions open at the same time, 1 to 1024
 * @param deniedOperators operators that are refused
 * @param operatorLibraries absolute paths of shared libraries with more operators
 * @param transfer limits of direct transfers of tensors between nodes
 * @param remoteFunctions whether programs may run Python functions here
 * @param python the command of the interpreter that runs them
 * @param pythonStartTimeout time until a Python worker is ready, 1 s or more
 * @param pythonPackages folder of packages installed on request; empty for a temporary one
 * @param pythonRequirements packages that are installed before the first function runs
 * @param pythonHubToken whether Python functions get the node's token for the hub
 * @param models settings for loading and saving models
 * @param http address of metrics and health; empty to turn them off
 */
public record NodeSettings(
    Duration orphanTimeout,
    Duration sessionLease,
    long maxUnconfirmedBytes,
    Duration tokenLifetime,
    Duration shutdownGrace,
    Duration noticeGrace,
    Duration lifeTime,
    Duration lifeTimeNotice,
    int computeThreads,
    int maxConnections,
    int maxSessions,
    List<String> deniedOperators,
    List<String> operatorLibraries,
    Transfer transfer,
    boolean remoteFunctions,
    String python,
    Duration pythonStartTimeout,
    String pythonPackages,
    List<String> pythonRequirements,
    boolean pythonHubToken,
    Models models,
    Optional<InetSocketAddress> http) {

  /** Path of the settings in the configuration. */
  static final String PATH = "remora.node";

  /** Path of the address of metrics and health. */
  static final String HTTP = PATH + ".http";

  /** Path of the session actors' dispatcher. Akka itself reads these settings. */
  static final String SESSION_DISPATCHER = PATH + ".session-dispatcher";

  /**
   * Checks the ranges.
   *
   * @throws IllegalArgumentException if a value is out of its range; the message names the key
   */
  public NodeSettings {
    checkAtLeast("orphan-timeout", orphanTimeout, Duration.ofSeconds(1));
    checkAtLeast("session-lease", sessionLease, Duration.ofSeconds(1));
    checkRange("max-unconfirmed-bytes", maxUnconfirmedBytes, 4L << 20, Long.MAX_VALUE);
    checkAtLeast("token-lifetime", tokenLifetime, Duration.ofSeconds(1));
    checkAtLeast("shutdown-grace", shutdownGrace, Duration.ZERO);
    checkAtLeast("notice-grace", noticeGrace, Duration.ZERO);
    checkAtLeast("life-time", lifeTime, Duration.ZERO);
    checkAtLeast("life-time-notice", lifeTimeNotice, Duration.ofMillis(1));
    checkRange("compute-threads", computeThreads, 0, 1024);
    checkRange("max-connections", maxConnections, 1, 1024);
    checkRange("max-sessions", maxSessions, 1, 1024);
    deniedOperators = List.copyOf(deniedOperators);
    operatorLibraries = List.copyOf(operatorLibraries);
    for (String library : operatorLibraries) {
      if (!Path.of(library).isAbsolute()) {
        throw new IllegalArgumentException(
            PATH + ".operator-libraries must hold absolute paths, not " + library);
      }
    }
    pythonRequirements = List.copyOf(pythonRequirements);
    checkAtLeast("python-start-timeout", pythonStartTimeout, Duration.ofSeconds(1));
    if (remoteFunctions && python.isBlank()) {
      throw new IllegalArgumentException(PATH + ".python must not be empty");
    }
  }

  /** How long after its start the node gives notice that its life-time ends, if it has one. */
  Optional<Duration> untilNotice() {
    return lifeTime.isZero() ? Optional.empty() : Optional.of(lifeTime.minus(noticeOfEnd()));
  }

  /** How long before the end of its life-time the node gives notice. */
  Duration noticeOfEnd() {
    Duration half = lifeTime.dividedBy(2);
    return lifeTimeNotice.compareTo(half) < 0 ? lifeTimeNotice : half;
  }

  /**
   * Reads the settings.
   *
   * @param root the whole configuration, with {@code reference.conf} resolved into it
   * @return the settings
   * @throws com.typesafe.config.ConfigException if a key is missing or has the wrong type
   * @throws IllegalArgumentException if a value is out of its range
   */
  public static NodeSettings from(Config root) {
    Config node = root.getConfig(PATH);
    return new NodeSettings(
        node.getDuration("orphan-timeout"),
        node.getDuration("session-lease"),
        node.getBytes("max-unconfirmed-bytes"),
        node.getDuration("token-lifetime"),
        node.getDuration("shutdown-grace"),
        node.getDuration("notice-grace"),
        node.getDuration("life-time"),
        node.getDuration("life-time-notice"),
        node.getInt("compute-threads"),
        node.getInt("max-connections"),
        node.getInt("max-sessions"),
        node.getStringList("denied-operators"),
        node.getStringList("operator-libraries"),
        new Transfer(
            node.getDuration("transfer.connect-timeout"),
            node.getDuration("transfer.timeout"),
            node.getDuration("transfer.ticket-lifetime"),
            node.getInt("transfer.max-tickets"),
            node.getBytes("transfer.max-bytes")),
        node.getBoolean("remote-functions"),
        node.getString("python"),
        node.getDuration("python-start-timeout"),
        node.getString("python-packages"),
        node.getStringList("python-requirements"),
        node.getBoolean("python-hub-token"),
        new Models(
            node.getBoolean("models.hub"),
            node.getString("models.cache"),
            node.getStringList("models.endpoints").stream().map(URI::create).toList(),
            paths(node, "models.directories"),
            paths(node, "models.save-directories"),
            node.getBoolean("models.map-files"),
            node.getInt("models.max-loads")),
        HttpEndpoint.address(root, HTTP));
  }

  /**
   * Checks that a machine with these settings reconnects, if at all, before its sessions are freed.
   *
   * @throws IllegalArgumentException if sessions would be freed before the machine gives up
   */
  void checkLease(LinkSettings link) {
    if (sessionLease.compareTo(link.giveUpAfter()) < 0) {
      throw new IllegalArgumentException(
          "%s.session-lease must not be shorter than remora.link.give-up-after, which is %s, but is %s"
              .formatted(PATH, link.giveUpAfter(), sessionLease));
    }
  }

  /**
   * Limits of direct transfers of tensors between nodes, {@code remora.node.transfer}.
   *
   * @param connectTimeout time to reach the other node; positive
   * @param timeout time a transfer may take; 1 s or more
   * @param ticketLifetime how long a tensor is held for another node; 1 s or more
   * @param maxTickets tensors held at the same time, 0 to 1024
   * @param maxBytes their bytes; not negative
   */
  public record Transfer(
      Duration connectTimeout,
      Duration timeout,
      Duration ticketLifetime,
      int maxTickets,
      long maxBytes) {

    /**
     * Checks the ranges.
     *
     * @throws IllegalArgumentException if a value is out of its range; the message names the key
     */
    public Transfer {
      checkAtLeast("transfer.connect-timeout", connectTimeout, Duration.ofMillis(1));
      checkAtLeast("transfer.timeout", timeout, Duration.ofSeconds(1));
      checkAtLeast("transfer.ticket-lifetime", ticketLifetime, Duration.ofSeconds(1));
      checkRange("transfer.max-tickets", maxTickets, 0, 1024);
      checkRange("transfer.max-bytes", maxBytes, 0, Long.MAX_VALUE);
    }
  }

  /**
   * Settings for loading and saving models, {@code remora.node.models}.
   *
   * @param hub whether repositories are fetched from a hub
   * @param cache folder of the hub's cache; empty to use the environment variables
   * @param endpoints hubs that a program may name besides the node's default
   * @param directories absolute paths of folders to load models from
   * @param saveDirectories absolute paths of folders to save models in
   * @param mapFiles whether to map files instead of reading them, on the CPU
   * @param maxLoads most loads that a session may run at the same time, 1 to 64
   */
  public record Models(
      boolean hub,
      String cache,
      List<URI> endpoints,
      List<Path> directories,
      List<Path> saveDirectories,
      boolean mapFiles,
      int maxLoads) {

    /**
     * Checks the ranges.
     *
     * @throws IllegalArgumentException if a value is out of its range; the message names the key
     */
    public Models {
      endpoints = List.copyOf(endpoints);
      directories = List.copyOf(directories);
      saveDirectories = List.copyOf(saveDirectories);
      checkRange("models.max-loads", maxLoads, 1, 64);
    }
  }

  private static List<Path> paths(Config node, String key) {
    return node.getStringList(key).stream().map(path -> absolute(key, Path.of(path))).toList();
  }

  private static Path absolute(String key, Path path) {
    if (!path.isAbsolute()) {
      throw new IllegalArgumentException(
          "%s.%s must contain absolute paths, but contains %s".formatted(PATH, key, path));
    }
    return path.normalize();
  }

  private static void checkAtLeast(String key, Duration value, Duration least) {
    if (value.compareTo(least) < 0) {
      throw new IllegalArgumentException(
          "%s.%s must be at least %s, but is %s".formatted(PATH, key, least, value));
    }
  }

  private static void checkRange(String key, long value, long least, long most) {
    if (value < least || value > most) {
      throw new IllegalArgumentException(
          "%s.%s must be between %d and %d, but is %d".formatted(PATH, key, least, most, value));
    }
  }
}
