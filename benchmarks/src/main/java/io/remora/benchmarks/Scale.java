// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.ones;

import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.io.PrintWriter;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.stream.Stream;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/**
 * Measures whether an operation costs the same after many operations and among many storages, and
 * what memory the program and its node take meanwhile.
 */
@Command(
    name = "scale",
    showDefaultValues = true,
    description = {
      "Prints the cost of one operation after so many operations of one session, and among so many"
          + " live storages.",
      "The elapsed time is the median of windows of 1,000 operations, each of which ends when the"
          + " node has executed it; the CPU time is that of all windows. Each row is the best of three"
          + " measurements. The ratios are to the first row. Memory is resident memory afterwards."
    })
public final class Scale implements Callable<Integer> {

  private static final int WINDOW = 1_000;
  private static final int WINDOWS = 25;
  private static final int MEASUREMENTS = 3;
  private static final int WARM_UP = 200_000;
  private static final double MIB = 1024 * 1024;

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      description = "Show this and exit.")
  @SuppressWarnings("unused") // picocli looks at it
  private boolean help;

  @Option(
      names = "--operations",
      split = ",",
      paramLabel = "N",
      description = "Totals of operations, ascending.",
      defaultValue = "1000,10000,100000,1000000,10000000")
  private List<Integer> operations;

  @Option(
      names = "--storages",
      split = ",",
      paramLabel = "N",
      description = "Numbers of live storages, ascending.",
      defaultValue = "10,1000,100000,1000000")
  private List<Integer> storages;

  @Option(names = "--provider", description = "Who provides the machine.", defaultValue = "mock")
  private String provider;

  @Spec private CommandLine.Model.CommandSpec spec;

  /** Runs the command and exits with its code. */
  public static void main(String[] args) {
    System.exit(commandLine().execute(args));
  }

  static CommandLine commandLine() {
    return new CommandLine(new Scale());
  }

  @Override
  public Integer call() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    try (RemoteMachine machine = RemoteMachine.open(provider)) {
      // The JVM of the program has compiled its code before the first row; the other machine's
      // session is as new as that of a program that has just started.
      afterOperations(Side.remote(machine), List.of(WARM_UP), false);
    }
    try (RemoteMachine machine = RemoteMachine.open(provider)) {
      afterOperations(Side.remote(machine), operations, true);
    }
    try (RemoteMachine machine = RemoteMachine.open(provider)) {
      afterOperations(Side.remote(machine), List.of(WARM_UP), false);
      amongStorages(Side.remote(machine), "live storages");
    }
    amongStorages(Side.local(), "live storages, local");
    return 0;
  }

  private void afterOperations(Side side, List<Integer> totals, boolean print) {
    if (print) {
      header("operations so far");
    }
    try (Tensor step = ones(1).to(side.device(), ScalarType.Float);
        Chain chain = new Chain(step)) {
      side.synchronize().run();
      Cost first = null;
      int done = 0;
      for (int total : totals) {
        for (; done < total; done++) {
          chain.add();
        }
        Cost cost = Cost.of(side, chain::add);
        done += WINDOW * WINDOWS * MEASUREMENTS;
        first = first == null ? cost : first;
        if (print) {
          row(total, cost, first);
        }
      }
    }
  }

  /** {@code sum = sum + step}, each sum released as soon as the next is there. */
  private static final class Chain implements AutoCloseable {
    private final Tensor step;
    private Tensor sum;

    Chain(Tensor step) {
      this.step = step;
      this.sum = step.add(step);
    }

    void add() {
      Tensor next = sum.add(step);
      sum.close();
      sum = next;
    }

    @Override
    public void close() {
      sum.close();
    }
  }

  private void amongStorages(Side side, String title) {
    header(title);
    Random random = new Random(1);
    List<Tensor> live = new ArrayList<>();
    try (Tensor one = ones(1).to(side.device(), ScalarType.Float)) {
      Cost first = null;
      for (int count : storages) {
        while (live.size() < count) {
          live.add(one.add(one));
        }
        Cost cost =
            Cost.of(
                side,
                () -> {
                  // A new storage replaces one among the others.
                  int place = random.nextInt(count);
                  Tensor old = live.get(place);
                  live.set(place, old.add(one));
                  old.close();
                });
        first = first == null ? cost : first;
        row(count, cost, first);
      }
    }
    live.forEach(Tensor::close);
    side.synchronize().run();
    row(0, null, null);
  }

  /**
   * What one operation costs, in nanoseconds.
   *
   * @param elapsed until the node has executed it
   * @param program CPU time of the program
   * @param node CPU time of the node
   */
  private record Cost(double elapsed, double program, double node) {

    /** The least of several measurements: what else the computer does only adds to them. */
    static Cost of(Side side, Runnable operation) {
      return Stream.generate(() -> once(side, operation))
          .limit(MEASUREMENTS)
          .min(Comparator.comparingDouble(Cost::cpu))
          .orElseThrow();
    }

    private static Cost once(Side side, Runnable operation) {
      side.synchronize().run();
      double[] windows = new double[WINDOWS];
      long program = cpuNanos(ProcessHandle.current());
      long node = ProcessHandle.current().children().mapToLong(Cost::cpuNanos).sum();
      for (int i = 0; i < WINDOWS; i++) {
        long begin = System.nanoTime();
        for (int each = 0; each < WINDOW; each++) {
          operation.run();
        }
        side.synchronize().run();
        windows[i] = (System.nanoTime() - begin) / (double) WINDOW;
      }
      double operations = (double) WINDOW * WINDOWS;
      return new Cost(
          Measurement.median(Arrays.stream(windows).boxed().toList()),
          (cpuNanos(ProcessHandle.current()) - program) / operations,
          (ProcessHandle.current().children().mapToLong(Cost::cpuNanos).sum() - node) / operations);
    }

    private static long cpuNanos(ProcessHandle process) {
      return process.info().totalCpuDuration().orElse(Duration.ZERO).toNanos();
    }

    double cpu() {
      return program + node;
    }
  }

  private void header(String what) {
    out()
        .printf(
            "%n%-24s %12s %8s %12s %12s %8s %12s %12s%n",
            what,
            "elapsed, ns",
            "ratio",
            "program CPU",
            "node CPU",
            "ratio",
            "program MiB",
            "node MiB");
  }

  private void row(int count, Cost cost, Cost first) {
    String figures =
        cost == null
            ? " ".repeat(56)
            : String.format(
                Locale.ROOT,
                "%,12.0f %8.2f %,12.0f %,12.0f %8.2f",
                cost.elapsed(),
                cost.elapsed() / first.elapsed(),
                cost.program(),
                cost.node(),
                cost.cpu() / first.cpu());
    long nodes =
        ProcessHandle.current()
            .children()
            .mapToLong(child -> MachineFacts.residentBytes(child.pid()))
            .sum();
    out()
        .printf(
            Locale.ROOT,
            "%-24s %s %,12.0f %,12.0f%n",
            String.format(Locale.ROOT, "%,d", count),
            figures,
            MachineFacts.residentBytes(ProcessHandle.current().pid()) / MIB,
            nodes / MIB);
    out().flush();
  }

  private PrintWriter out() {
    return spec.commandLine().getOut();
  }
}
