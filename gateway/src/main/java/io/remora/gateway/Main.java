// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import io.remora.core.ProcessEnd;

/**
 * A gateway in a process of its own. {@code java -cp … io.remora.gateway.Main --help} explains its
 * options.
 *
 * <p>Standard output carries one line, {@code remora-gateway listening on HOST:PORT}, when it is
 * ready. Everything else that is printed, by whichever library, goes to standard error.
 */
public final class Main {

  private Main() {}

  /**
   * Runs a gateway until it ends, then ends the JVM.
   *
   * @param arguments the command line
   */
  public static void main(String[] arguments) {
    GatewayCommand.Subcommand command = new GatewayCommand.Subcommand();
    ProcessEnd.exit(command.program().execute(arguments), command.longestEnd());
  }
}
