// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Spec;
import picocli.CommandLine.Unmatched;

/** Stands for a command whose module is not on the class path, and says what to add. */
@Command(hidden = true)
final class ElsewhereCommand implements Callable<Integer> {

  private final String artifact;

  @Spec private CommandSpec command;

  @Unmatched
  @SuppressWarnings("unused") // picocli fills it; a command that cannot run has no wrong arguments
  private final List<String> arguments = new ArrayList<>();

  ElsewhereCommand(String artifact) {
    this.artifact = artifact;
  }

  @Override
  public Integer call() {
    command
        .commandLine()
        .getErr()
        .printf(
            "%s: this command is not on the class path: add io.remora:%s, or use the archive"
                + " remora-<version>.tar.gz, which has every command%n",
            command.qualifiedName(), artifact);
    return CommandLine.ExitCode.SOFTWARE;
  }
}
