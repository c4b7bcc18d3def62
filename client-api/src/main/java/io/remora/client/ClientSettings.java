// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import com.typesafe.config.Config;
import java.time.Duration;
import java.util.Objects;

/**
 * The settings under {@code remora.client}; {@code reference.conf} says what each one means.
 *
 * @param remoteExecution whether machines come from their provider; if not, they run in this
 *     process
 * @param openTimeout limit for opening a machine, 1 s or more
 * @param askTimeout limit for an answer from a machine's actor, 100 ms or more
 * @param closeTimeout limit for giving a machine back, 100 ms or more
 * @param pauseTimeout limit for pausing a machine, or resuming one beyond its open timeout, 1 s or
 *     more
 * @param shutdownTimeout limit for closing machines left open when the JVM ends, 0 or more
 * @param showsProgress whether a terminal shows what takes long
 */
record ClientSettings(
    boolean remoteExecution,
    Duration openTimeout,
    Duration askTimeout,
    Duration closeTimeout,
    Duration pauseTimeout,
    Duration shutdownTimeout,
    boolean showsProgress) {

  ClientSettings {
    requireAtLeast(openTimeout, Duration.ofSeconds(1), "remora.client.open-timeout");
    requireAtLeast(askTimeout, Duration.ofMillis(100), "remora.client.ask-timeout");
    requireAtLeast(closeTimeout, Duration.ofMillis(100), "remora.client.close-timeout");
    requireAtLeast(pauseTimeout, Duration.ofSeconds(1), "remora.client.pause-timeout");
    requireAtLeast(shutdownTimeout, Duration.ZERO, "remora.client.shutdown-timeout");
  }

  /**
   * Reads the settings.
   *
   * @param root a configuration that has {@code remora.client}
   * @throws IllegalArgumentException when a value is out of range
   */
  static ClientSettings from(Config root) {
    Config client = root.getConfig("remora.client");
    return new ClientSettings(
        client.getBoolean("remote-execution"),
        client.getDuration("open-timeout"),
        client.getDuration("ask-timeout"),
        client.getDuration("close-timeout"),
        client.getDuration("pause-timeout"),
        client.getDuration("shutdown-timeout"),
        showsProgress(client.getString("progress")));
  }

  private static boolean showsProgress(String value) {
    return switch (value) {
      case "auto" -> ProgressBar.isUseful();
      case "on", "true", "1" -> true;
      case "off", "false", "0" -> false;
      default ->
          throw new IllegalArgumentException(
              "remora.client.progress must be auto, on or off, but is " + value);
    };
  }

  private static void requireAtLeast(Duration value, Duration minimum, String key) {
    Objects.requireNonNull(value, key);
    if (value.compareTo(minimum) < 0) {
      throw new IllegalArgumentException(
          key + " must be at least " + minimum + ", but is " + value);
    }
  }
}
