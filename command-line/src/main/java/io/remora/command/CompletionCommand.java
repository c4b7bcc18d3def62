// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import picocli.AutoComplete;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code remora completion}: prints a script that makes a shell complete the command's words. */
@Command(
    name = "completion",
    mixinStandardHelpOptions = true,
    usageHelpAutoWidth = true,
    description = "Prints a script that makes a shell complete remora's commands and options.",
    footerHeading = "%nExamples:%n",
    footer = {
      "  source <(remora completion bash)      for this shell; in ~/.bashrc for each",
      "  source <(remora completion zsh)       the same for zsh, in ~/.zshrc"
    })
final class CompletionCommand implements Runnable {

  /** The shells for which there is a script. */
  enum Shell {
    /** Bash, 3 and newer. */
    bash,
    /** Zsh. Its own functions read the script for Bash. */
    zsh
  }

  @Spec private CommandSpec command;

  @Parameters(paramLabel = "bash|zsh", description = "The shell")
  private Shell shell;

  @Override
  public void run() {
    CommandLine remora = command.parent().commandLine();
    String script = AutoComplete.bash(remora.getCommandName(), remora);
    if (shell == Shell.zsh) {
      script = "autoload -Uz compinit && compinit -u\n" + script;
    }
    command.commandLine().getOut().println(script);
    command.commandLine().getOut().flush();
  }
}
