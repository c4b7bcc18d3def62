// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import java.io.PrintWriter;
import picocli.CommandLine;
import picocli.CommandLine.Command;

/**
 * The command {@code remora}. {@code java -cp … io.remora.command.Main --help} explains it; the
 * providers are those on the class path.
 */
@Command(
    name = "remora",
    mixinStandardHelpOptions = true,
    usageHelpAutoWidth = true,
    synopsisSubcommandLabel = "COMMAND",
    description = "Looks after machines from the command line.")
public final class Main {

  private Main() {}

  /**
   * Runs a command and ends the JVM: with 0 if that is done, 1 if it failed, 2 if it is wrong.
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
