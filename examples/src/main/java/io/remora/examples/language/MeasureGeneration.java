// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import io.remora.language.Generation;
import io.remora.language.LanguageModel;
import io.remora.language.LlamaConfig;
import io.remora.language.Place;
import io.remora.language.Sampler;
import io.remora.runtime.TorchLibrary;
import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import org.bytedeco.javacpp.PointerScope;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** Compares generating on a remote machine with the same code on the local CPU. */
@Command(
    name = "measure-generation",
    showDefaultValues = true,
    mixinStandardHelpOptions = true,
    description = {
      "Generates with a model of random weights that has SmolLM2-135M's shape, except for the"
          + " number of layers, in turn on a remote machine and on the local CPU. Prints the"
          + " medians of tokens per second and of the time to the first token."
    })
public final class MeasureGeneration implements Callable<Integer> {

  @Option(names = "--provider", description = "The machine's provider.", defaultValue = "mock")
  private String provider;

  @Option(names = "--layers", description = "Decoder layers.", defaultValue = "6")
  private int layers;

  @Option(names = "--prompt-tokens", description = "Length of the prompt.", defaultValue = "128")
  private int promptTokens;

  @Option(names = "--tokens", description = "Tokens to generate each time.", defaultValue = "128")
  private int tokens;

  @Option(names = "--check-every", description = "Tokens read at a time.", defaultValue = "1")
  private int checkEvery;

  @Option(names = "--rounds", description = "Measured rounds, after an unmeasured one.")
  private int rounds = 5;

  @Option(
      names = "--compute-threads",
      description = "Threads that libtorch computes with, on either side.",
      defaultValue = "1")
  private int computeThreads;

  @Spec private CommandLine.Model.CommandSpec spec;

  /** Runs the command and exits with its code. */
  public static void main(String[] arguments) {
    System.exit(new CommandLine(new MeasureGeneration()).execute(arguments));
  }

  /** One generation: seconds to the first token, and tokens per second after it. */
  private record Figures(double firstSeconds, double tokensPerSecond) {}

  @Override
  public Integer call() {
    TorchLibrary.bytedeco().setComputeThreads(computeThreads);
    Config settings =
        ConfigFactory.parseMap(Map.of("remora.provider.mock.compute-threads", computeThreads));
    LlamaConfig config = smol(layers);
    try (RemoteMachine machine =
            RemoteMachine.builder().provider(provider).config(settings).open();
        PointerScope everything = new PointerScope()) {
      Place.Machine there = new Place.Machine(machine);
      Place.Local here = new Place.Local();
      Generation remote = new Generation(LanguageModel.random(config, there, 0.02), there);
      Generation local = new Generation(LanguageModel.random(config, here, 0.02), here);
      List<Figures> remotely = new ArrayList<>();
      List<Figures> locally = new ArrayList<>();
      for (int round = 0; round <= rounds; round++) {
        remotely.add(measure(remote));
        locally.add(measure(local));
      }
      report(remotely.subList(1, rounds + 1), locally.subList(1, rounds + 1));
      return 0;
    }
  }

  private Figures measure(Generation generation) {
    long[] prompt = new long[promptTokens];
    Arrays.setAll(prompt, i -> 1000L + i);
    List<Long> times = new ArrayList<>();
    long start = System.nanoTime();
    generation.run(
        prompt,
        new Generation.Plan(Sampler.greedy(), tokens, checkEvery, false),
        (token, logProbability) -> times.add(System.nanoTime()));
    long first = times.get(0);
    long last = times.get(times.size() - 1);
    return new Figures(
        (first - start) / 1e9, (tokens - Math.min(checkEvery, tokens)) * 1e9 / (last - first));
  }

  private void report(List<Figures> remote, List<Figures> local) {
    double remoteRate = median(remote.stream().map(Figures::tokensPerSecond).toList());
    double localRate = median(local.stream().map(Figures::tokensPerSecond).toList());
    PrintWriter out = spec.commandLine().getOut();
    out.printf(
        Locale.ROOT,
        "tokens/s: remote %.1f, local %.1f, ratio %.2f%n",
        remoteRate,
        localRate,
        remoteRate / localRate);
    out.printf(
        Locale.ROOT,
        "first token after %d, s: remote %.3f, local %.3f%n",
        promptTokens,
        median(remote.stream().map(Figures::firstSeconds).toList()),
        median(local.stream().map(Figures::firstSeconds).toList()));
    out.flush();
  }

  private static double median(List<Double> values) {
    return values.stream().sorted().skip(values.size() / 2).findFirst().orElseThrow();
  }

  private static LlamaConfig smol(int layers) {
    LlamaConfig.Rope rope = new LlamaConfig.Rope(100_000, new LlamaConfig.Scaling.None());
    return new LlamaConfig(
        49_152, 576, 1_536, layers, 9, 3, 64, 8_192, 1e-5, rope, false, false, false, true,
        List.of());
  }
}
