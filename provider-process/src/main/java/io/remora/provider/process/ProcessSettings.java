// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigRenderOptions;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * The configuration of the process provider, {@code remora.provider.process} in {@code
 * reference.conf}, where each key is explained. Immutable.
 *
 * @param command the command that runs the node, one word or more, with placeholders
 * @param endCommand the command that cleans up after a node; may be empty
 * @param secretsFromStdin whether the node reads its secrets from standard input, and not from the
 *     environment
 * @param host host for connecting to the node; empty for the one that the node prints
 * @param port port for connecting to the node; empty for the one that the node prints; 0 for a port
 *     that is free on this computer
 * @param tls whether the link gets certificates of its own
 * @param nodeConfig settings of the node in HOCON
 * @param startTimeout limit from start to announcement, 1 s or more
 * @param stopTimeout limit of each step of ending, not negative
 */
public record ProcessSettings(
    List<String> command,
    List<String> endCommand,
    boolean secretsFromStdin,
    Optional<String> host,
    OptionalInt port,
    boolean tls,
    String nodeConfig,
    Duration startTimeout,
    Duration stopTimeout) {

  static final String PATH = "remora.provider.process";

  /**
   * Checks the ranges.
   *
   * @throws IllegalArgumentException if a value is out of its range; the message names the key
   */
  public ProcessSettings {
    command = List.copyOf(command);
    endCommand = List.copyOf(endCommand);
    check(
        !command.isEmpty(),
        "command is empty: set it to the command that starts a node "
            + "(docs/providers.md has examples)");
    check(
        startTimeout.compareTo(Duration.ofSeconds(1)) >= 0,
        "start-timeout must be at least 1 s, but is " + startTimeout);
    check(!stopTimeout.isNegative(), "stop-timeout must not be negative, but is " + stopTimeout);
  }

  /**
   * Reads the settings.
   *
   * @param root the whole configuration, with {@code reference.conf} resolved into it
   * @throws com.typesafe.config.ConfigException if a key is missing or has the wrong type
   * @throws IllegalArgumentException if a value is out of its range
   */
  public static ProcessSettings from(Config root) {
    Config process = root.getConfig(PATH);
    return new ProcessSettings(
        process.getStringList("command"),
        process.getStringList("end-command"),
        isStdin(process.getString("secrets")),
        Optional.of(process.getString("host")).filter(host -> !host.isBlank()),
        port(process.getString("port")),
        process.getBoolean("tls"),
        process.getObject("node-config").render(ConfigRenderOptions.concise()),
        process.getDuration("start-timeout"),
        process.getDuration("stop-timeout"));
  }

  private static boolean isStdin(String text) {
    check(
        text.equals("stdin") || text.equals("environment"),
        "secrets must be stdin or environment, but is " + text);
    return text.equals("stdin");
  }

  private static OptionalInt port(String text) {
    if (text.equals("announced")) {
      return OptionalInt.empty();
    }
    int port = text.equals("free") ? 0 : text.matches("\\d{1,5}") ? Integer.parseInt(text) : -1;
    check(
        text.equals("free") || (port >= 1 && port <= 65535),
        "port must be announced, free or a number from 1 to 65535, but is " + text);
    return OptionalInt.of(port);
  }

  private static void check(boolean condition, String message) {
    if (!condition) {
      throw new IllegalArgumentException(PATH + "." + message);
    }
  }
}
