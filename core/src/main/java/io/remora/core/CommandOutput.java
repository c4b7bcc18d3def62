// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.io.PrintStream;

/** What a command's process prints, and where. */
public final class CommandOutput {

  private static final String LOGBACK = "logback.configurationFile";

  private CommandOutput() {}

  /**
   * Makes standard output a server's, for announcements alone: everything else that is printed, by
   * whichever library, goes to standard error. Call it before the first logger is made.
   *
   * @param logback as for {@link #log}
   * @return standard output
   */
  public static PrintStream forAnnouncements(String logback) {
    PrintStream announcements = System.out;
    System.setOut(System.err);
    log(logback);
    return announcements;
  }

  /**
   * Sets Logback's configuration for this process, unless the system property {@code
   * logback.configurationFile} has set it. Call it before the first logger is made.
   *
   * @param logback the name of a resource
   */
  public static void log(String logback) {
    if (System.getProperty(LOGBACK) == null) {
      System.setProperty(LOGBACK, logback);
    }
  }
}
