// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.LoggerContext;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.classic.spi.IThrowableProxy;
import ch.qos.logback.core.AppenderBase;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.slf4j.LoggerFactory;

/**
 * The last lines of each machine's log, and the last warnings and errors of all. Lines of nodes and
 * of this process come from Logback, if it does the logging. Thread-safe.
 */
final class DashboardLog implements AutoCloseable {

  private static final String OURS = "io.remora";
  private static final String NODES = OURS + ".node.";
  private static final int LINES = 200;
  private static final int ERRORS = 100;
  private static final int MACHINES = 100;
  private static final int LONGEST = 2_000;

  /**
   * A line.
   *
   * @param number greater than that of each line before
   * @param machine the machine's name; empty if the line is about none
   * @param source {@code machine} for states, {@code node} for the node's log, {@code gateway} for
   *     this process
   */
  record Line(
      long number, long unixMillis, String machine, String level, String source, String text) {

    boolean isError() {
      return level.equals("ERROR") || level.equals("WARN");
    }
  }

  private final Map<String, Deque<Line>> machines =
      new LinkedHashMap<>(16, 0.75f, true) {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Deque<Line>> eldest) {
          return size() > MACHINES;
        }
      };
  private final Deque<Line> errors = new ArrayDeque<>();
  private final Tap tap = new Tap();
  private volatile long last;

  /** Starts to listen. */
  DashboardLog() {
    if (LoggerFactory.getILoggerFactory() instanceof LoggerContext context) {
      tap.setContext(context);
      tap.start();
      context.getLogger(OURS).addAppender(tap);
    }
  }

  /** Stops listening. */
  @Override
  public void close() {
    if (LoggerFactory.getILoggerFactory() instanceof LoggerContext context) {
      context.getLogger(OURS).detachAppender(tap);
    }
  }

  /** Adds a line. */
  void add(String machine, String level, String source, String text) {
    add(System.currentTimeMillis(), machine, level, source, text);
  }

  private synchronized void add(
      long unixMillis, String machine, String level, String source, String text) {
    String cut = text.length() <= LONGEST ? text : text.substring(0, LONGEST) + " …";
    Line line = new Line(last + 1, unixMillis, machine, level, source, cut);
    if (!machine.isEmpty()) {
      add(machines.computeIfAbsent(machine, unused -> new ArrayDeque<>()), line, LINES);
    }
    if (line.isError()) {
      add(errors, line, ERRORS);
    }
    last = line.number();
  }

  private static void add(Deque<Line> lines, Line line, int most) {
    lines.addLast(line);
    if (lines.size() > most) {
      lines.removeFirst();
    }
  }

  /** The kept lines with greater numbers than this, in their order. */
  List<Line> after(long number) {
    if (number >= last) {
      return List.of();
    }
    Map<Long, Line> found = new TreeMap<>();
    synchronized (this) {
      machines.values().forEach(lines -> addAfter(number, lines, found));
      addAfter(number, errors, found);
    }
    return List.copyOf(found.values());
  }

  private static void addAfter(long number, Deque<Line> lines, Map<Long, Line> found) {
    for (var each = lines.descendingIterator(); each.hasNext(); ) {
      Line line = each.next();
      if (line.number() <= number) {
        return;
      }
      found.put(line.number(), line);
    }
  }

  private final class Tap extends AppenderBase<ILoggingEvent> {

    @Override
    protected void append(ILoggingEvent event) {
      String logger = event.getLoggerName();
      boolean node = logger.startsWith(NODES);
      if (!node && !event.getLevel().isGreaterOrEqual(Level.WARN)) {
        return;
      }
      IThrowableProxy thrown = event.getThrowableProxy();
      add(
          event.getTimeStamp(),
          node ? logger.substring(NODES.length()) : "",
          event.getLevel().toString(),
          node ? "node" : "gateway",
          thrown == null
              ? event.getFormattedMessage()
              : "%s: %s: %s"
                  .formatted(
                      event.getFormattedMessage(), thrown.getClassName(), thrown.getMessage()));
    }
  }
}
