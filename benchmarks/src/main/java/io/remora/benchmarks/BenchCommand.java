// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import io.remora.core.CommandVersion;
import io.remora.core.RemoraCommand;
import picocli.CommandLine;
import picocli.CommandLine.Command;

/** {@code remora bench}: the measurements that need no checkout. */
@Command(
    name = "bench",
    mixinStandardHelpOptions = true,
    versionProvider = CommandVersion.class,
    usageHelpAutoWidth = true,
    synopsisSubcommandLabel = "COMMAND",
    description = "Measures machines on this computer.",
    footerHeading = "%nExamples:%n",
    footer = {
      "  remora bench compare --quick       a few seconds, to see that it works",
      "  remora bench compare --json FILE   all figures, also in a file",
      "  remora bench distance --rtt 30     a node that is 30 ms away"
    },
    subcommands = {Compare.class, Distance.class})
final class BenchCommand {

  private BenchCommand() {}

  /** The command as the command line {@code remora} finds it. */
  public static final class Subcommand implements RemoraCommand {
    @Override
    public CommandLine commandLine() {
      return new CommandLine(new BenchCommand());
    }
  }
}
