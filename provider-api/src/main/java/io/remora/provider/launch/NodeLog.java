// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.launch;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.event.Level;

/**
 * Passes on a node's log to logger {@code io.remora.node.<machine>} of this program. Each line
 * keeps its level and starts with the machine's name. Remembers the last lines for error messages.
 * Thread-safe.
 */
public final class NodeLog {

  /** The Logback pattern of the node's lines, from which this class reads their level. */
  public static final String PATTERN = "%-5level %logger{0} - %msg%n";

  private static final int REMEMBERED = 20;

  /** Longer lines are cut; they do not come from the node's logger. */
  private static final int MAX_LINE = 16 * 1024;

  private static final Pattern LINE = Pattern.compile("(TRACE|DEBUG|INFO|WARN|ERROR) +(.*)");

  private final String machine;
  private final Logger logger;
  private final Deque<String> last = new ArrayDeque<>();
  private Level level = Level.INFO;

  /** The log of this machine's node. */
  public NodeLog(String machine) {
    this.machine = machine;
    this.logger = LoggerFactory.getLogger("io.remora.node." + machine);
  }

  /** The level of the node's loggers that this program's loggers need. */
  public Level wantedLevel() {
    for (Level candidate : List.of(Level.TRACE, Level.DEBUG, Level.INFO, Level.WARN)) {
      if (logger.isEnabledForLevel(candidate)) {
        return candidate;
      }
    }
    return Level.ERROR;
  }

  /** Adds a line. A line without a level continues the line before it. */
  public synchronized void line(String text) {
    String line = text.length() > MAX_LINE ? text.substring(0, MAX_LINE) + "…" : text;
    if (last.size() == REMEMBERED) {
      last.removeFirst();
    }
    last.addLast(line);
    Matcher parts = LINE.matcher(line);
    String message = line;
    if (parts.matches()) {
      level = Level.valueOf(parts.group(1));
      message = parts.group(2);
    }
    logger.atLevel(level).log("[{}] {}", machine, message);
  }

  /** The last 20 lines or fewer, oldest first. */
  public synchronized List<String> lastLines() {
    return List.copyOf(last);
  }

  /** The last lines as the end of an error message. */
  public String quoted() {
    List<String> lines = lastLines();
    return lines.isEmpty()
        ? "; it has logged nothing"
        : "; last lines of its log:\n  " + String.join("\n  ", lines);
  }
}
