// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

/**
 * The former main class of the command {@code remora}. Runs {@code io.remora.command.Main}.
 *
 * @deprecated use {@code java -cp … io.remora.command.Main}, of the artifact {@code
 *     remora-command-line}
 */
@Deprecated(since = "0.1.0")
public final class Main {

  private Main() {}

  /**
   * Runs a command and ends the JVM: exit code 0 for success, 1 for failure, 2 for a wrong command
   * line.
   *
   * @param arguments the command line
   */
  public static void main(String[] arguments) {
    try {
      io.remora.command.Main.main(arguments);
    } catch (NoClassDefFoundError e) {
      System.err.printf(
          "remora: the command line is not on the class path (%s): add "
              + "io.remora:remora-command-line%n",
          e.getMessage());
      System.exit(1);
    }
  }
}
