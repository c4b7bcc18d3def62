// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import io.remora.core.ProcessEnd;
import java.io.PrintStream;
import java.time.Duration;
import picocli.CommandLine;

/**
 * A gateway in a process of its own. {@code java -cp … io.remora.gateway.Main --help} explains its
 * options.
 *
 * <p>Standard output carries one line, {@code remora-gateway listening on HOST:PORT}, when it is
 * ready. Everything else that is printed, by whichever library, goes to standard error.
 */
public final class Main {

  private static final Duration LONGEST_END = Duration.ofSeconds(10);

  private Main() {}

  /**
   * Runs a gateway until it ends, then ends the JVM.
   *
   * @param arguments the command line
   */
  public static void main(String[] arguments) {
    PrintStream announcements = System.out;
    System.setOut(System.err);
    if (System.getProperty("logback.configurationFile") == null) {
      System.setProperty("logback.configurationFile", "io/remora/gateway/logback-gateway.xml");
    }
    CommandLine command = GatewayCommand.commandLine(announcements, System.getenv(), System.in);
    ProcessEnd.exit(command.execute(arguments), LONGEST_END);
  }
}
