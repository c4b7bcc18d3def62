// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The command that cleans up after a node's command. A failure is only a warning, since the machine
 * is gone anyway.
 *
 * @param command the command; may be empty
 * @param limit the time after which it is killed
 */
record EndCommand(List<String> command, Duration limit) implements Runnable {

  private static final Logger log = LoggerFactory.getLogger(EndCommand.class);
  private static final int MOST_OUTPUT = 2000;

  @Override
  public void run() {
    if (command.isEmpty()) {
      return;
    }
    String line = String.join(" ", command);
    try {
      Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
      try {
        process.getOutputStream().close();
        if (!process.waitFor(Math.max(1, limit.toMillis()), TimeUnit.MILLISECONDS)) {
          log.warn("Not done within {}: {}", limit, line);
        } else if (process.exitValue() != 0) {
          byte[] output = process.getInputStream().readNBytes(MOST_OUTPUT);
          log.warn(
              "Exit code {} of {}: {}",
              process.exitValue(),
              line,
              new String(output, StandardCharsets.UTF_8).strip());
        }
      } finally {
        process.destroyForcibly();
      }
    } catch (IOException e) {
      log.warn("Cannot run {}", line, e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}
