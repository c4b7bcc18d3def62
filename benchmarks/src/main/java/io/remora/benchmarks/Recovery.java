// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.cross_entropy;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.relu;

import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.io.PrintWriter;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Adam;
import org.bytedeco.pytorch.AdamOptions;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/**
 * Kills the node of a machine with recovery after runs of different lengths, and measures how long
 * the program waits. That depends on the distance to the last checkpoint, not on the run's length.
 */
@Command(
    name = "recovery",
    showDefaultValues = true,
    description = {
      "Trains for so many steps on a machine with recovery, kills its node with signal 9 and reads the loss.",
      "Prints how long the read took, which waits for another node, the checkpoint and the batches after it; what"
          + " the program's side had kept; and whether the loss has the bits of the local CPU."
    })
public final class Recovery implements Callable<Integer> {

  private static final double MIB = 1024 * 1024;

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      description = "Show this and exit.")
  @SuppressWarnings("unused") // picocli looks at it
  private boolean help;

  @Option(
      names = "--steps",
      split = ",",
      paramLabel = "N",
      description = "Lengths of the runs.",
      defaultValue = "100,1000,10000,100000")
  private List<Integer> lengths;

  @Option(
      names = "--checkpoint-interval",
      paramLabel = "S",
      description = "Seconds between checkpoints.",
      defaultValue = "5")
  private int interval;

  @Spec private CommandLine.Model.CommandSpec spec;

  /** Runs the command and exits with its code. */
  public static void main(String[] args) {
    System.exit(commandLine().execute(args));
  }

  static CommandLine commandLine() {
    return new CommandLine(new Recovery());
  }

  @Override
  public Integer call() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    out()
        .printf(
            "%12s %10s %12s %10s %12s %12s %6s%n",
            "steps", "run, s", "checkpoints", "read, s", "kept MiB", "program MiB", "bits");
    boolean equal = true;
    for (int steps : lengths) {
      equal &= run(steps);
    }
    return equal ? 0 : 1;
  }

  private boolean run(int steps) {
    double expected;
    try (PointerScope scope = new PointerScope();
        Net local = new Net(new Device("cpu"))) {
      expected = local.train(steps);
    }
    try (RemoteMachine machine =
            RemoteMachine.builder()
                .provider("mock")
                .config(
                    ConfigFactory.parseMap(
                        Map.of(
                            "remora.recovery.mode",
                            "replay",
                            "remora.recovery.checkpoint-interval",
                            interval + " s",
                            "remora.provider.mock.compute-threads",
                            1)))
                .open();
        PointerScope scope = new PointerScope();
        Net net = new Net(machine.device())) {
      long begin = System.nanoTime();
      net.train(steps);
      double took = seconds(begin);
      Map<String, Double> stats = machine.stats();
      double kept = stats.get("recovery.log.bytes");
      for (ProcessHandle node : ProcessHandle.current().children().toList()) {
        node.destroyForcibly();
        node.onExit().join();
      }
      begin = System.nanoTime();
      double loss = net.loss();
      double waited = seconds(begin);
      stats = machine.stats();
      boolean same = Double.compare(loss, expected) == 0;
      out()
          .printf(
              Locale.ROOT,
              "%,12d %10.1f %,12.0f %10.2f %12.2f %,12.0f %6s%n",
              steps,
              took,
              stats.get("checkpoints"),
              waited,
              kept / MIB,
              MachineFacts.residentBytes(ProcessHandle.current().pid()) / MIB,
              same ? "equal" : "OTHER");
      out().flush();
      return same;
    }
  }

  private static double seconds(long since) {
    return (System.nanoTime() - since) / 1e9;
  }

  private PrintWriter out() {
    return spec.commandLine().getOut();
  }

  /** A network of 32 - 64 - 4 with Adam. Each step uploads nothing. */
  private static final class Net extends Module {
    private final LinearImpl hidden = register_module("hidden", new LinearImpl(32, 64));
    private final LinearImpl last = register_module("last", new LinearImpl(64, 4));
    private final Tensor inputs;
    private final Tensor labels;
    private final Adam optimizer;

    @SuppressWarnings("this-escape")
    Net(Device device) {
      manual_seed(3);
      hidden.reset_parameters();
      last.reset_parameters();
      inputs = randn(32, 32).to(device, ScalarType.Float);
      labels = randint(4, new long[] {32}).to(device, ScalarType.Long);
      to(device, false);
      optimizer = new Adam(parameters(), new AdamOptions(1e-3));
    }

    private Tensor forward() {
      return cross_entropy(last.forward(relu(hidden.forward(inputs))), labels);
    }

    /** Trains for so many steps; returns the loss afterwards. */
    double train(int steps) {
      for (int i = 0; i < steps; i++) {
        try (PointerScope temporaries = new PointerScope()) {
          optimizer.zero_grad();
          forward().backward();
          optimizer.step();
        }
      }
      return loss();
    }

    double loss() {
      try (PointerScope temporaries = new PointerScope()) {
        return forward().item_float();
      }
    }
  }
}
