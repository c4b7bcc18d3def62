// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import java.util.List;
import java.util.Map;

/**
 * How a node ended.
 *
 * @param code the process's exit code; 128 + n for signal n; 0 if there is no exit code
 * @param lastLines the last lines of its log, oldest first; may be empty
 * @param memory the memory limit of the process, as text; empty if not known
 */
public record NodeExit(int code, List<String> lastLines, String memory) {

  private static final int KILLED = 128 + 9;

  private static final Map<Integer, String> SIGNALS =
      Map.of(
          128 + 1, "SIGHUP", 128 + 2, "SIGINT", 128 + 4, "SIGILL", 128 + 6, "SIGABRT", 128 + 7,
          "SIGBUS", 128 + 8, "SIGFPE", KILLED, "SIGKILL", 128 + 11, "SIGSEGV", 128 + 15, "SIGTERM");

  /** Copies the lines. */
  public NodeExit {
    lastLines = List.copyOf(lastLines);
  }

  /** An exit with an unknown memory limit. */
  public NodeExit(int code, List<String> lastLines) {
    this(code, lastLines, "");
  }

  /** A readable text: the code with its meaning, and the last lines if there are any. */
  @Override
  public String toString() {
    StringBuilder text = new StringBuilder("exit code ").append(code);
    String signal = SIGNALS.get(code);
    if (signal != null) {
      text.append(" (").append(signal);
      if (code == KILLED) {
        text.append(": it was killed, as the operating system does when memory runs out");
        if (!memory.isEmpty()) {
          text.append("; ").append(memory);
        }
      }
      text.append(')');
    }
    if (!lastLines.isEmpty()) {
      text.append(", last lines of its log:\n  ").append(String.join("\n  ", lastLines));
    }
    return text.toString();
  }
}
