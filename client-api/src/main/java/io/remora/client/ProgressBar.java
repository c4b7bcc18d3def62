// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.progress.Progress;
import java.io.Console;
import java.io.PrintStream;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Consumer;

/**
 * Shows what a machine does in one line of a terminal, which it writes over again and clears at the
 * end. Thread-safe.
 */
final class ProgressBar implements Consumer<Progress> {

  private static final int BAR = 20;
  private static final int WIDTH = 100;

  private final PrintStream out;
  private final Map<String, Progress> running = new LinkedHashMap<>();
  private int written;

  ProgressBar(PrintStream out) {
    this.out = out;
  }

  /** Whether the program has a terminal, and does not run in continuous integration. */
  @SuppressWarnings("SystemConsoleNull") // since JDK 22 it is not null: see below
  static boolean isUseful() {
    Console console = System.console();
    if (console == null || !System.getenv().getOrDefault("CI", "").isEmpty()) {
      return false;
    }
    try {
      // Since JDK 22 there is a console without a terminal, too, and this method.
      return (boolean) Console.class.getMethod("isTerminal").invoke(console);
    } catch (ReflectiveOperationException e) {
      return true;
    }
  }

  @Override
  public synchronized void accept(Progress progress) {
    running.remove(progress.activity());
    if (!progress.ended()) {
      running.put(progress.activity(), progress);
    }
    // The last that began is the most specific: a download while a machine opens.
    Progress shown = null;
    for (Progress each : running.values()) {
      if (shown == null || each.elapsed().compareTo(shown.elapsed()) < 0) {
        shown = each;
      }
    }
    write(shown == null ? "" : line(shown));
  }

  private void write(String line) {
    String fitting = line.length() > WIDTH ? line.substring(0, WIDTH) : line;
    StringBuilder text = new StringBuilder("\r").append(fitting);
    text.append(" ".repeat(Math.max(0, written - fitting.length())));
    if (fitting.isEmpty()) {
      text.append('\r');
    }
    written = fitting.length();
    out.print(text);
    out.flush();
  }

  private static String line(Progress progress) {
    if (progress.fraction() < 0) {
      return progress.line();
    }
    int full = (int) (progress.fraction() * BAR);
    return "[" + "#".repeat(full) + ".".repeat(BAR - full) + "] " + progress.line();
  }
}
