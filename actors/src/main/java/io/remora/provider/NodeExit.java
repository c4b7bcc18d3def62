// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import java.util.List;

/**
 * How a node ended.
 *
 * @param code the process's exit code; 128 + n for signal n; 0 also where there is no such thing
 * @param lastLines the last lines of its log, oldest first; may be empty
 */
public record NodeExit(int code, List<String> lastLines) {

  /** Copies the lines. */
  public NodeExit {
    lastLines = List.copyOf(lastLines);
  }

  /** As a person would read it: the code, and the last lines if there are any. */
  @Override
  public String toString() {
    String summary = "exit code " + code;
    return lastLines.isEmpty()
        ? summary
        : summary + ", last lines of its log:\n  " + String.join("\n  ", lastLines);
  }
}
