// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import org.slf4j.LoggerFactory;
import picocli.CommandLine;
import picocli.CommandLine.IExitCodeGenerator;

/**
 * How the commands of servers report errors. This class needs picocli, which the users of this
 * module get only if they depend on it themselves.
 */
public final class CommandErrors {

  private CommandErrors() {}

  /**
   * Makes a command report each error in a line on standard error that starts with the command's
   * name. A wrong command line has the exit code 2. An exception that is an {@link
   * IExitCodeGenerator} explains itself by its message and has its own exit code. Any other
   * exception has the exit code 1, and is also logged with its stack trace.
   *
   * @return the command
   */
  public static CommandLine reportedBy(CommandLine commandLine) {
    commandLine.setParameterExceptionHandler(
        (exception, arguments) -> {
          CommandLine command = exception.getCommandLine();
          tell(command, exception.getMessage());
          command.getErr().println("Try --help.");
          return CommandLine.ExitCode.USAGE;
        });
    commandLine.setExecutionExceptionHandler(
        (exception, command, parsed) -> {
          if (exception instanceof IExitCodeGenerator explained) {
            tell(command, exception.getMessage());
            return explained.getExitCode();
          }
          LoggerFactory.getLogger(command.getCommand().getClass())
              .error("{} failed", command.getCommandName(), exception);
          tell(command, "failed: " + exception);
          return CommandLine.ExitCode.SOFTWARE;
        });
    return commandLine;
  }

  private static void tell(CommandLine command, String error) {
    command.getErr().println(command.getCommandSpec().qualifiedName() + ": " + error);
  }
}
