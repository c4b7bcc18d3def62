// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.time.Duration;
import picocli.CommandLine;

/**
 * A subcommand of {@code remora}, found by {@link java.util.ServiceLoader}: the command offers what
 * the modules on its class path contain. This interface needs picocli, which the users of this
 * module get only if they depend on it themselves.
 */
public interface RemoraCommand {

  /**
   * The command line. Its name is the word after {@code remora}. Called at each start of {@code
   * remora}, whichever subcommand then runs, so it must not do any work.
   *
   * @return a new command line
   */
  CommandLine commandLine();

  /**
   * How long the end of the process may take once the subcommand has run. After that the process
   * kills itself.
   *
   * @return a positive duration; 10 seconds by default
   */
  default Duration longestEnd() {
    return Duration.ofSeconds(10);
  }
}
