// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.io.PrintWriter;
import java.util.EnumMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import org.bytedeco.pytorch.Device;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/**
 * Trains classifiers of handwritten digits on a remote machine or on the local CPU, and can verify
 * that both give the same losses, bit by bit.
 */
@Command(
    name = "train-digits",
    showDefaultValues = true,
    description = {
      "Trains an MLP and a small convolutional network on 1,797 handwritten digits.",
      "With --verify it trains on the local CPU and on the remote machine with the same seed and"
          + " compares the loss of every step; it exits with 1 when any differs."
    })
public final class TrainDigits implements Callable<Integer> {

  /** Where to train. */
  enum Place {
    LOCAL,
    REMOTE
  }

  /** Which networks to train. */
  enum Choice {
    MLP,
    CONV,
    BOTH;

    private List<DigitsModel.Kind> kinds() {
      return switch (this) {
        case MLP -> List.of(DigitsModel.Kind.MLP);
        case CONV -> List.of(DigitsModel.Kind.CONV);
        case BOTH -> List.of(DigitsModel.Kind.values());
      };
    }
  }

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      description = "Show this and exit.")
  @SuppressWarnings("unused") // picocli reads it
  private boolean help;

  @Option(names = "--device", description = "local or remote.", defaultValue = "remote")
  private Place place;

  @Option(names = "--provider", description = "The machine's provider.", defaultValue = "mock")
  private String provider;

  @Option(names = "--model", description = "mlp, conv or both.", defaultValue = "both")
  private Choice choice;

  @Option(names = "--epochs", description = "Passes over the images.", defaultValue = "20")
  private int epochs;

  @Option(names = "--batch-size", description = "Images per step.", defaultValue = "32")
  private int batchSize;

  @Option(names = "--lr", description = "Learning rate of AdamW.", defaultValue = "0.003")
  private double learningRate;

  @Option(
      names = "--seed",
      description = "Seed for the split, the parameters and the order of the images.",
      defaultValue = "0")
  private long seed;

  @Option(
      names = "--compute-threads",
      description = {
        "Threads that libtorch computes with, here and on a mock machine.",
        "Equal bits need equal numbers of threads, because libtorch splits sums among them."
      },
      defaultValue = "1")
  private int computeThreads;

  @Option(names = "--verify", description = "Train in both places and compare every loss.")
  private boolean verify;

  @Spec private CommandLine.Model.CommandSpec spec;

  /** Runs the command and exits with its code. */
  public static void main(String[] args) {
    System.exit(commandLine().execute(args));
  }

  static CommandLine commandLine() {
    return new CommandLine(new TrainDigits()).setCaseInsensitiveEnumValuesAllowed(true);
  }

  @Override
  public Integer call() {
    checkOptions();
    TorchLibrary.bytedeco().setComputeThreads(computeThreads);
    DigitsTrainer.Plan plan = new DigitsTrainer.Plan(epochs, batchSize, learningRate, seed);
    if (verify) {
      Map<DigitsModel.Kind, DigitsTrainer.Result> local = trainLocally(plan);
      Map<DigitsModel.Kind, DigitsTrainer.Result> remote = trainRemotely(plan);
      return report(local, remote) ? 0 : 1;
    }
    summarize(place == Place.LOCAL ? trainLocally(plan) : trainRemotely(plan));
    return 0;
  }

  private Map<DigitsModel.Kind, DigitsTrainer.Result> trainLocally(DigitsTrainer.Plan plan) {
    return trainOn(new Device("cpu"), "local", plan);
  }

  private Map<DigitsModel.Kind, DigitsTrainer.Result> trainRemotely(DigitsTrainer.Plan plan) {
    Config config =
        ConfigFactory.parseMap(Map.of("remora.provider.mock.compute-threads", computeThreads));
    try (RemoteMachine machine = RemoteMachine.builder().provider(provider).config(config).open()) {
      println("machine %s: %s", machine.name(), machine.info().devices().get(0).name());
      Map<DigitsModel.Kind, DigitsTrainer.Result> results =
          trainOn(machine.device(), "remote", plan);
      Map<String, Double> stats = machine.stats();
      if (stats.containsKey("cost.dollars")) {
        println(
            "machine %s: %.0f GPU seconds, about %.4f US dollars",
            machine.name(), stats.get("gpu.seconds"), stats.get("cost.dollars"));
      }
      return results;
    }
  }

  private Map<DigitsModel.Kind, DigitsTrainer.Result> trainOn(
      Device device, String where, DigitsTrainer.Plan plan) {
    Map<DigitsModel.Kind, DigitsTrainer.Result> results = new EnumMap<>(DigitsModel.Kind.class);
    for (DigitsModel.Kind kind : choice.kinds()) {
      results.put(kind, new DigitsTrainer(plan, device, where + " " + kind, out()).train(kind));
    }
    return results;
  }

  private void summarize(Map<DigitsModel.Kind, DigitsTrainer.Result> results) {
    results.forEach(
        (kind, result) ->
            println(
                "%s: test accuracy %.2f %%, %d steps, %.0f steps/s",
                kind,
                100 * result.testAccuracy(),
                result.losses().length,
                result.stepsPerSecond()));
  }

  private boolean report(
      Map<DigitsModel.Kind, DigitsTrainer.Result> local,
      Map<DigitsModel.Kind, DigitsTrainer.Result> remote) {
    boolean allEqual = true;
    for (DigitsModel.Kind kind : choice.kinds()) {
      DigitsTrainer.Result here = local.get(kind);
      DigitsTrainer.Result there = remote.get(kind);
      LossComparison comparison = LossComparison.of(here.losses(), there.losses());
      allEqual &= comparison.identical();
      println("%s: %s", kind, comparison);
      println(
          "%s: test accuracy local %.2f %%, remote %.2f %%; steps/s local %.0f, remote %.0f",
          kind,
          100 * here.testAccuracy(),
          100 * there.testAccuracy(),
          here.stepsPerSecond(),
          there.stepsPerSecond());
    }
    println(allEqual ? "VERIFIED: every loss has the same bits" : "FAILED: losses differ");
    return allEqual;
  }

  private void checkOptions() {
    if (epochs < 1 || batchSize < 1 || computeThreads < 1) {
      throw new CommandLine.ParameterException(
          spec.commandLine(), "--epochs, --batch-size and --compute-threads must be at least 1");
    }
  }

  private void println(String format, Object... arguments) {
    out().printf(Locale.ROOT, format + "%n", arguments);
    out().flush();
  }

  private PrintWriter out() {
    return spec.commandLine().getOut();
  }
}
