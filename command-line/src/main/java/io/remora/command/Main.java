// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.core.CommandErrors;
import io.remora.core.CommandVersion;
import io.remora.core.ProcessEnd;
import io.remora.core.RemoraCommand;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.ServiceLoader;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.Spec;

/**
 * The command {@code remora}. {@code java -cp … io.remora.command.Main --help} explains it. Its
 * subcommands are those of this module and those of the modules that are on the class path ({@link
 * RemoraCommand}). It finds the providers that are on the class path.
 */
@Command(
    name = "remora",
    mixinStandardHelpOptions = true,
    versionProvider = CommandVersion.class,
    usageHelpAutoWidth = true,
    synopsisSubcommandLabel = "COMMAND",
    description = "Remora: PyTorch devices that live on other machines.",
    footerHeading = "%nExamples:%n",
    footer = {
      "  remora doctor                      looks for what is wrong with this computer",
      "  remora gateway                     serves machines on this computer",
      "  remora dashboard                   opens the page that shows what they do",
      "  remora node --listen HOST:PORT     runs a node; REMORA_NODE_TOKEN is its secret",
      "  remora machines --provider modal   lists the machines that run at Modal",
      "  remora bench compare --quick       compares a machine with the local CPU",
      "  remora record FILE COMMAND         records what a program does on its machines",
      "  remora replay FILE                 executes it again and compares its reads",
      "  source <(remora completion bash)   completes words with the Tab key",
      "'remora COMMAND --help' explains a command."
    },
    exitCodeListHeading = "%nExit codes:%n",
    exitCodeList = {
      "0:success",
      "1:failure; 'remora doctor': there is a problem",
      "2:wrong command line",
      "3 and higher:explained by the command's --help"
    })
public final class Main implements Callable<Integer> {

  /** The artifacts of the commands that are in other modules. */
  private static final Map<String, String> ARTIFACTS =
      Map.of(
          "node", "remora-gpu-node",
          "gateway", "remora-gateway",
          "bench", "remora-benchmarks");

  private static final Duration LONGEST_END = Duration.ofSeconds(10);

  @Spec private CommandSpec spec;

  private Main() {}

  /**
   * Runs a command and ends the JVM. {@code --help} lists the exit codes.
   *
   * @param arguments the command line
   */
  public static void main(String[] arguments) {
    Map<String, RemoraCommand> others = others();
    CommandLine remora = commandLine(ConfigFactory.load(), System.getenv(), others);
    int code = remora.execute(arguments);
    ParseResult parsed = remora.getParseResult();
    String name =
        parsed != null && parsed.hasSubcommand() ? parsed.subcommand().commandSpec().name() : "";
    ProcessEnd.exit(code, others.containsKey(name) ? others.get(name).longestEnd() : LONGEST_END);
  }

  private static Map<String, RemoraCommand> others() {
    Map<String, RemoraCommand> found = new LinkedHashMap<>();
    for (RemoraCommand each : ServiceLoader.load(RemoraCommand.class)) {
      found.put(each.commandLine().getCommandName(), each);
    }
    return found;
  }

  static CommandLine commandLine(Config config, Map<String, String> environment) {
    return commandLine(config, environment, others());
  }

  private static CommandLine commandLine(
      Config config, Map<String, String> environment, Map<String, RemoraCommand> others) {
    CommandLine remora = new CommandLine(new Main());
    others.forEach((name, each) -> remora.addSubcommand(name, each.commandLine()));
    ARTIFACTS.forEach(
        (name, artifact) -> {
          if (!others.containsKey(name)) {
            remora.addSubcommand(name, new ElsewhereCommand(artifact));
          }
        });
    remora.addSubcommand(new MachinesCommand(config));
    remora.addSubcommand(new StateCommand(config));
    remora.addSubcommand(new DoctorCommand(config, environment));
    remora.addSubcommand(new DashboardCommand(environment));
    // What follows its file belongs to the program.
    remora.addSubcommand(new CommandLine(new RecordCommand()).setStopAtPositional(true));
    remora.addSubcommand(new ReplayCommand(environment));
    remora.addSubcommand(new CompletionCommand());
    return CommandErrors.reportedBy(remora);
  }

  /** Without a subcommand: shows the help, which is no success for a script. */
  @Override
  public Integer call() {
    spec.commandLine().usage(spec.commandLine().getErr());
    return CommandLine.ExitCode.USAGE;
  }
}
