// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.core.ProcessEnd;

/**
 * The node process. {@code java -cp … io.remora.node.Main --help} explains its options.
 *
 * <p>Standard output carries one line, {@code remora-node listening on HOST:PORT}, when the node is
 * ready. Everything else that is printed, by whichever library, goes to standard error.
 */
public final class Main {

  private Main() {}

  /**
   * Runs a node until it ends, then ends the JVM.
   *
   * @param arguments the command line
   */
  public static void main(String[] arguments) {
    NodeCommand.Subcommand command = new NodeCommand.Subcommand();
    ProcessEnd.exit(command.program().execute(arguments), command.longestEnd());
  }
}
