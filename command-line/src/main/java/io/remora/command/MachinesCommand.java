// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.Config;
import io.remora.core.CommandOutput;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineProviders;
import io.remora.provider.ProviderContext;
import io.remora.provider.RunningNode;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import java.io.PrintWriter;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code remora machines}: lists a provider's running nodes, and ends those that are left over. */
@Command(
    name = "machines",
    mixinStandardHelpOptions = true,
    sortOptions = false,
    usageHelpAutoWidth = true,
    description = {
      "Lists a provider's running nodes, including those of other programs and computers: the"
          + " provider's name for each node, its machine, its owner (host-process) and its start"
          + " time.",
      "A node is left over if its owner has given no sign of life for so long that the owner must"
          + " be gone."
    },
    footerHeading = "%nExamples:%n",
    footer = {
      "  remora machines --provider modal            what runs in the account's app",
      "  remora machines --provider modal --sweep    ends what dead programs have left"
    },
    exitCodeListHeading = "%nExit codes:%n",
    exitCodeList = {
      "0:success",
      "1:the provider did not answer, or a node could not be ended",
      "2:wrong command line"
    })
final class MachinesCommand implements Callable<Integer> {

  private static final Duration LIMIT = Duration.ofMinutes(2);

  private final Config config;

  @Spec private CommandSpec command;

  @Option(
      names = "--provider",
      paramLabel = "NAME",
      required = true,
      description = "The provider to ask, such as modal")
  private String provider;

  @Option(names = "--sweep", description = "Ends the nodes that are left over")
  private boolean sweep;

  MachinesCommand(Config config) {
    this.config = config;
  }

  @Override
  public Integer call() {
    PrintWriter out = command.commandLine().getOut();
    PrintWriter err = command.commandLine().getErr();
    CommandOutput.log("io/remora/command/logback-command.xml");
    ExecutorService blocking = Executors.newCachedThreadPool();
    try {
      MachineProvider asked = MachineProviders.named(provider);
      ProviderContext context = new ProviderContext(config, blocking, err::println);
      List<RunningNode> nodes = await(asked.running(context), "listing nodes");
      int failed = 0;
      for (RunningNode node : nodes) {
        out.printf(
            "%s  machine %s  owner %s  since %s%s%n",
            node.id(),
            node.machine(),
            node.owner(),
            node.since(),
            node.leftOver() ? "  LEFT OVER" : "");
        if (sweep && node.leftOver()) {
          try {
            await(asked.end(node.id(), context), "ending " + node.id());
            out.printf("%s  ended%n", node.id());
          } catch (ProviderException e) {
            failed++;
            err.printf("%s  not ended: %s%n", node.id(), e.getMessage());
          }
        }
      }
      long leftOver = nodes.stream().filter(RunningNode::leftOver).count();
      out.printf("%d running, %d left over%n", nodes.size(), leftOver);
      out.flush();
      return failed == 0 ? CommandLine.ExitCode.OK : CommandLine.ExitCode.SOFTWARE;
    } catch (ProviderException e) {
      err.println(command.qualifiedName() + ": " + e.getMessage());
      return CommandLine.ExitCode.SOFTWARE;
    } finally {
      blocking.shutdownNow();
    }
  }

  private static <T> T await(CompletionStage<T> answer, String what) {
    try {
      return answer.toCompletableFuture().get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new ProviderException("interrupted while " + what, e);
    } catch (TimeoutException e) {
      throw new ProvisioningTimeoutException(what + " took longer than " + LIMIT, e);
    } catch (ExecutionException e) {
      throw e.getCause() instanceof ProviderException failure
          ? failure
          : new ProviderException(what + " failed: " + e.getCause().getMessage(), e.getCause());
    }
  }
}
