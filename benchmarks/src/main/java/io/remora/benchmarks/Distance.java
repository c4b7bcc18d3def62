// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.cat;
import static org.bytedeco.pytorch.global.torch.cross_entropy;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.zeros;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigValueFactory;
import io.remora.client.RemoteMachine;
import io.remora.core.OwnJava;
import io.remora.runtime.SessionStatistics;
import io.remora.runtime.TorchLibrary;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.text.DecimalFormat;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionStage;
import java.util.function.BiFunction;
import java.util.function.Function;
import java.util.function.Supplier;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.AutoGradMode;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Optimizer;
import org.bytedeco.pytorch.SGD;
import org.bytedeco.pytorch.SGDOptions;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** Trains and generates with a node that is some milliseconds away. */
@Command(
    name = "distance",
    showDefaultValues = true,
    description = {
      "Trains and generates with a node that is some milliseconds away, and prints what each step"
          + " costs.",
      "A forwarder between the machine and its node holds every byte back for half the round trip, each"
          + " way. Each column is a program of its own, with the local CPU beside them; both sides"
          + " compute with one thread."
    })
@SuppressWarnings("try") // the scopes are opened for what closing them does
public final class Distance implements Callable<Integer> {

  private static final String LOCAL = "local";
  private static final String ROW = "row: ";
  private static final int STEPS = 30;
  private static final int UNREAD_STEPS = 50;
  private static final int TOKENS = 31;

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      description = "Show this and exit.")
  @SuppressWarnings("unused") // picocli looks at it
  private boolean help;

  @Option(
      names = "--rtt",
      arity = "1..*",
      paramLabel = "MS",
      description = "Round trips in milliseconds; default: 0 10 30 100.")
  private List<Double> roundTrips = List.of(0.0, 10.0, 30.0, 100.0);

  @Option(
      names = "--mbit",
      paramLabel = "N",
      description = "Megabits a second that pass each way; 0 for no limit.",
      defaultValue = "0")
  private double mbit;

  @Option(names = "--json", paramLabel = "FILE", description = "Write the figures to this file.")
  private Path json;

  @Option(names = "--one", hidden = true)
  private String one;

  @Spec private CommandLine.Model.CommandSpec spec;

  private final Map<String, Double> rows = new LinkedHashMap<>();

  /** Runs the command and exits with its code. */
  public static void main(String[] args) {
    System.exit(commandLine().execute(args));
  }

  static CommandLine commandLine() {
    return new CommandLine(new Distance());
  }

  @Override
  public Integer call() throws IOException {
    if (one != null) {
      measure();
      rows.forEach((name, value) -> out().println(ROW + name + "\t" + value));
      out().flush();
      return 0;
    }
    Map<String, Map<String, Double>> columns = new LinkedHashMap<>();
    columns.put(LOCAL, inItsOwnProgram(LOCAL));
    for (double milliseconds : roundTrips) {
      String name = new DecimalFormat("0.###").format(milliseconds) + " ms";
      columns.put(name, inItsOwnProgram(Double.toString(milliseconds)));
    }
    print(columns);
    if (json != null) {
      Files.writeString(
          json,
          ConfigValueFactory.fromMap(columns)
                  .render(ConfigRenderOptions.concise().setFormatted(true).setJson(true))
              + "\n");
    }
    return 0;
  }

  private Map<String, Double> inItsOwnProgram(String where) throws IOException {
    Process process =
        new ProcessBuilder(
                OwnJava.command().toString(),
                "-Djava.util.concurrent.ForkJoinPool.common.parallelism=2",
                "-cp",
                System.getProperty("java.class.path"),
                Distance.class.getName(),
                "--one",
                where,
                "--mbit",
                Double.toString(mbit))
            .redirectError(ProcessBuilder.Redirect.INHERIT)
            .start();
    Map<String, Double> found = new LinkedHashMap<>();
    try (BufferedReader output =
        new BufferedReader(
            new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8))) {
      for (String line : output.lines().toList()) { // until the program has ended
        if (line.startsWith(ROW)) {
          String[] parts = line.substring(ROW.length()).split("\t", -1);
          found.put(parts[0], Double.valueOf(parts[1]));
        }
      }
    } finally {
      process.destroy();
    }
    if (found.isEmpty()) {
      throw new IOException("the measurement at " + where + " has failed; see above");
    }
    return found;
  }

  private void print(Map<String, Map<String, Double>> columns) {
    Set<String> names = new LinkedHashSet<>();
    columns.values().forEach(column -> names.addAll(column.keySet()));
    out().println("| | " + String.join(" | ", columns.keySet()) + " |");
    out().println("|---".repeat(columns.size() + 1) + "|");
    for (String name : names) {
      List<String> cells = new ArrayList<>();
      for (Map<String, Double> column : columns.values()) {
        Double value = column.get(name);
        cells.add(
            value == null
                ? ""
                : String.format(
                    Locale.ROOT,
                    value == Math.rint(value) || value >= 100
                        ? "%.0f"
                        : value < 1 ? "%.3f" : "%.1f",
                    value));
      }
      out().println("| " + name + " | " + String.join(" | ", cells) + " |");
    }
    out().flush();
  }

  // ---------------------------------------------------------------- one column

  private void measure() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    long begin = System.nanoTime();
    if (one.equals(LOCAL)) {
      Device cpu = new Device("cpu");
      rowsOn(cpu, Distance::readNow, begin);
      return;
    }
    Config config =
        ConfigFactory.parseMap(
            Map.of(
                "remora.provider.mock.compute-threads",
                1,
                "remora.link.shared-memory-bytes",
                0,
                DistantProvider.DELAY,
                Math.round(Double.parseDouble(one) * 500_000) + " ns",
                DistantProvider.RATE,
                Math.round(mbit * 125_000)));
    try (RemoteMachine machine =
        RemoteMachine.builder().provider(DistantProvider.NAME).config(config).open()) {
      rowsOn(machine.device(), loss -> readLater(machine, loss), begin);
      SessionStatistics statistics = machine.statistics();
      rows.put("waits for values", (double) statistics.valueWaits());
      rows.put("waits for shapes", (double) statistics.shapeWaits());
      rows.put("waits for metadata", (double) statistics.metadataWaits());
      rows.put("waits for room", (double) statistics.roomWaits());
    }
  }

  private static Supplier<Float> readNow(Tensor loss) {
    float value = loss.item_float();
    return () -> value;
  }

  private static Supplier<Float> readLater(RemoteMachine machine, Tensor loss) {
    CompletionStage<Tensor> value = machine.read(loss);
    return () -> value.toCompletableFuture().join().item_float();
  }

  private void rowsOn(Device device, Function<Tensor, Supplier<Float>> read, long begin) {
    try (PointerScope kept = new PointerScope()) {
      zeros(1).to(device, ScalarType.Float).item_float();
      rows.put("open to first value, s", (System.nanoTime() - begin) / 1e9);
      manual_seed(0);
      Gpt net = new Gpt();
      net.to(device, false);
      language(net, device, read);
      generation(net, device);
    }
    images("conv", new Training.Convolutions(), Training.Convolutions::forward, device);
    images("ResNet", new ResNet(), ResNet::forward, device);
  }

  private void language(Gpt net, Device device, Function<Tensor, Supplier<Float>> read) {
    AdamW optimizer = new AdamW(net.parameters(), new AdamWOptions(1e-3));
    Steps steps =
        (batch, length) ->
            step(
                optimizer,
                () -> {
                  Tensor words =
                      randint(Gpt.WORDS, new long[] {batch, length})
                          .to(ScalarType.Long)
                          .to(device, ScalarType.Long);
                  return cross_entropy(
                      net.forward(words.narrow(1, 0, length - 1)).reshape(-1, Gpt.WORDS),
                      words.narrow(1, 1, length - 1).reshape(-1));
                });
    Runnable readStep = () -> item(steps.step(8, 33));
    rows.put("first GPT step, s", seconds(readStep));
    rows.put("second GPT step, s", seconds(readStep));
    rows.put("GPT step of a new shape, s", seconds(() -> item(steps.step(5, 21))));
    rows.put(
        "GPT step, loss read each step, ms", 1e3 / STEPS * seconds(() -> repeat(STEPS, readStep)));
    rows.put(
        "GPT step, loss read a step later, ms",
        1e3
            / STEPS
            * seconds(
                () -> {
                  Supplier<Float> before = null;
                  for (int i = 0; i < STEPS; i++) {
                    try (Tensor loss = steps.step(8, 33)) {
                      Supplier<Float> next = read.apply(loss);
                      requireFinite(before == null ? 0 : before.get());
                      before = next;
                    }
                  }
                  requireFinite(before.get());
                }));
    rows.put(
        "GPT step, loss read each " + UNREAD_STEPS + ", ms",
        1e3
            / UNREAD_STEPS
            * seconds(
                () -> {
                  repeat(UNREAD_STEPS - 1, () -> steps.step(8, 33).close());
                  readStep.run();
                }));
  }

  private void generation(Gpt net, Device device) {
    for (boolean cached : new boolean[] {false, true}) {
      for (String length : List.of("new", "known")) {
        rows.put(
            "token of a %s length, %s, ms".formatted(length, cached ? "cache" : "no cache"),
            1e3 / TOKENS * seconds(() -> generate(net, device, cached)));
      }
    }
  }

  private static void generate(Gpt net, Device device, boolean cached) {
    try (PointerScope run = new PointerScope();
        AutoGradMode inference = new AutoGradMode(false)) {
      List<Gpt.Cache> caches = net.newCaches();
      Tensor words = zeros(1, 1).to(ScalarType.Long).to(device, ScalarType.Long);
      for (int i = 0; i < TOKENS; i++) {
        Tensor odds = cached ? net.next(words, caches) : net.forward(words);
        Tensor token = odds.select(1, odds.size(1) - 1).argmax(new LongOptional(-1), true);
        token.item_long();
        words = cached ? token : cat(new TensorVector(words, token), 1);
      }
    }
  }

  private <T extends Module> void images(
      String name, T net, BiFunction<T, Tensor, Tensor> forward, Device device) {
    try (PointerScope kept = new PointerScope()) {
      net.to(device, false);
      SGDOptions options = new SGDOptions(0.01);
      options.momentum().put(0.9);
      SGD optimizer = new SGD(net.parameters(), options);
      Supplier<Tensor> step =
          () ->
              step(
                  optimizer,
                  () -> {
                    Tensor images = randn(32, 3, 32, 32).to(device, ScalarType.Float);
                    Tensor labels =
                        randint(10, new long[] {32})
                            .to(ScalarType.Long)
                            .to(device, ScalarType.Long);
                    return cross_entropy(forward.apply(net, images), labels);
                  });
      rows.put("first " + name + " step, s", seconds(() -> item(step.get())));
      item(step.get());
      rows.put(
          name + " step with upload, ms",
          1e3
              / STEPS
              * seconds(
                  () -> {
                    repeat(STEPS - 1, () -> step.get().close());
                    item(step.get());
                  }));
    }
  }

  /** A training step with a batch of so many rows of this length; the caller closes the loss. */
  private interface Steps {
    Tensor step(long batch, long length);
  }

  private static Tensor step(Optimizer optimizer, Supplier<Tensor> loss) {
    PointerScope outer = PointerScope.getInnerScope();
    Tensor result;
    try (PointerScope temporaries = new PointerScope()) {
      optimizer.zero_grad();
      Tensor made = loss.get();
      made.backward();
      optimizer.step();
      result = made.detach();
      outer.attach(result);
      temporaries.detach(result);
    }
    return result;
  }

  private static void item(Tensor loss) {
    try (loss) {
      requireFinite(loss.item_float());
    }
  }

  private static void requireFinite(float loss) {
    if (!Float.isFinite(loss)) {
      throw new IllegalStateException("The loss is " + loss);
    }
  }

  private static void repeat(int times, Runnable work) {
    for (int i = 0; i < times; i++) {
      work.run();
    }
  }

  private static double seconds(Runnable work) {
    long begin = System.nanoTime();
    work.run();
    return (System.nanoTime() - begin) / 1e9;
  }

  private PrintWriter out() {
    return spec.commandLine().getOut();
  }
}
