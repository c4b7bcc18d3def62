// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.core.ProcessEnd;
import java.io.PrintStream;
import java.time.Duration;
import picocli.CommandLine;

/**
 * The node process. {@code java -cp … io.remora.node.Main --help} explains its options.
 *
 * <p>Standard output carries one line, {@code remora-node listening on HOST:PORT}, when the node is
 * ready. Everything else that is printed, by whichever library, goes to standard error.
 */
public final class Main {

  private static final Duration LONGEST_END = Duration.ofSeconds(2);

  private Main() {}

  /**
   * Runs a node until it ends, then ends the JVM.
   *
   * @param arguments the command line
   */
  public static void main(String[] arguments) {
    PrintStream announcements = System.out;
    System.setOut(System.err);
    if (System.getProperty("logback.configurationFile") == null) {
      System.setProperty("logback.configurationFile", "io/remora/node/logback-node.xml");
    }
    CommandLine command = NodeCommand.commandLine(announcements, System.getenv(), System.in);
    ProcessEnd.exit(command.execute(arguments), LONGEST_END);
  }
}
