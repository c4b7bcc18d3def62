// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

/**
 * The former name of the command {@code remora}, {@code io.remora.command.Main}, which it runs.
 *
 * @deprecated {@code java -cp … io.remora.command.Main}, of the artifact {@code
 *     remora-command-line}, is the command now.
 */
@Deprecated(since = "0.1.0")
public final class Main {

  private Main() {}

  /**
   * Runs a command and ends the JVM: with 0 if that is done, 1 if it failed, 2 if it is wrong.
   *
   * @param arguments the command line
   */
  public static void main(String[] arguments) {
    try {
      io.remora.command.Main.main(arguments);
    } catch (NoClassDefFoundError e) {
      System.err.printf(
          "remora: the command line is not on the class path (%s): add io.remora:remora-command-line%n",
          e.getMessage());
      System.exit(1);
    }
  }
}
