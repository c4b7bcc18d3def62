// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import java.io.PrintWriter;
import picocli.CommandLine;
import picocli.CommandLine.Command;

/**
 * The command {@code remora}. {@code java -cp … io.remora.command.Main --help} explains it. It
 * finds the providers that are on the class path.
 */
@Command(
    name = "remora",
    mixinStandardHelpOptions = true,
    usageHelpAutoWidth = true,
    synopsisSubcommandLabel = "COMMAND",
    description = "Manages machines from the command line.")
public final class Main {

  private Main() {}

  /**
   * Runs a command and ends the JVM: exit code 0 for success, 1 for failure, 2 for a wrong command
   * line.
   *
   * @param arguments the command line
   */
  public static void main(String[] arguments) {
    System.exit(commandLine(ConfigFactory.load()).execute(arguments));
  }

  static CommandLine commandLine(Config config) {
    CommandLine remora = new CommandLine(new Main());
    remora.addSubcommand(new MachinesCommand(config));
    remora.setExecutionExceptionHandler(
        (exception, command, parsed) -> {
          PrintWriter err = command.getErr();
          err.println("remora: " + exception.getMessage());
          return CommandLine.ExitCode.SOFTWARE;
        });
    return remora;
  }
}
