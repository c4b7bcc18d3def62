// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.function.Consumer;
import java.util.regex.Pattern;

/**
 * Splits the pieces of a log into lines, removes terminal colours, and remembers the last lines.
 * Not thread-safe.
 */
final class TextLines {

  private static final int MAX_LINE = 16 * 1024;
  private static final int REMEMBERED = 30;
  private static final Pattern END = Pattern.compile("\\r?\\n|\\r");
  private static final Pattern ESCAPES = Pattern.compile("\\u001b\\[[0-9;?]*[A-Za-z]");

  private final Consumer<String> lines;
  private final Deque<String> last = new ArrayDeque<>();
  private final StringBuilder open = new StringBuilder();

  TextLines(Consumer<String> lines) {
    this.lines = lines;
  }

  /** Adds a piece. */
  void add(String piece) {
    String[] parts = END.split(piece, -1);
    for (int i = 0; i < parts.length; i++) {
      open.append(parts[i], 0, Math.min(parts[i].length(), Math.max(0, MAX_LINE - open.length())));
      if (i < parts.length - 1) {
        end();
      }
    }
  }

  /** Ends the log. */
  void end() {
    String line = ESCAPES.matcher(open).replaceAll("");
    open.setLength(0);
    if (line.isBlank()) {
      return;
    }
    if (last.size() == REMEMBERED) {
      last.removeFirst();
    }
    last.addLast(line);
    lines.accept(line);
  }

  /** The last lines, as the end of an error message. */
  String quoted() {
    return last.isEmpty()
        ? "; it has no log"
        : "; the end of its log:\n  " + String.join("\n  ", last);
  }
}
