// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigValueFactory;
import io.remora.benchmarks.Side.WireCounters;
import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/**
 * Runs the same workloads on a remote machine and on the local CPU, in turn and with the same
 * number of compute threads, and prints the medians side by side.
 */
@Command(
    name = "compare",
    showDefaultValues = true,
    description = {
      "Compares a remote machine with local libtorch, in one run.",
      "Each workload runs on both in turn; the table shows medians. A ratio of 1 means that remote"
          + " is as good as local; less is worse. The table also shows times and rates as multiples"
          + " of those of a bare socket over the loopback address in the same rounds."
    })
public final class Compare implements Callable<Integer> {

  private static final int WIRE_REPEATS = 20;

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      description = "Show this and exit.")
  @SuppressWarnings("unused") // picocli reads it
  private boolean help;

  @Option(names = "--json", paramLabel = "FILE", description = "Write all figures to this file.")
  private Path json;

  @Option(names = "--quick", description = "A few seconds, to see that it works; rough figures.")
  private boolean quick;

  @Option(
      names = "--compute-threads",
      description = "Threads that libtorch computes with, on each side.",
      defaultValue = "1")
  private int computeThreads;

  @Option(
      names = "--repeats",
      description = "Runs of each workload on each side; 0 takes 7, or 2 with --quick.",
      defaultValue = "0")
  private int repeats;

  @Option(names = "--provider", description = "The machine's provider.", defaultValue = "mock")
  private String provider;

  @Option(
      names = "--only",
      paramLabel = "KEY",
      arity = "1..*",
      description = "Measure only these figures, by their names in the JSON file.")
  private List<String> only = List.of();

  @Option(
      names = "--recovery",
      description =
          "Instead, compare training on a machine that recovers from the loss of its node, with a "
              + "checkpoint each 10 seconds, with training on one that does not.")
  private boolean recovery;

  @Spec private CommandLine.Model.CommandSpec spec;

  /** Runs the command and exits with its code. */
  public static void main(String[] args) {
    System.exit(commandLine().execute(args));
  }

  static CommandLine commandLine() {
    return new CommandLine(new Compare());
  }

  @Override
  public Integer call() throws IOException {
    if (computeThreads < 1 || repeats < 0) {
      throw new CommandLine.ParameterException(
          spec.commandLine(),
          "--compute-threads must be at least 1 and --repeats must not be negative");
    }
    TorchLibrary.bytedeco().setComputeThreads(computeThreads);
    Config config =
        ConfigFactory.parseMap(Map.of("remora.provider.mock.compute-threads", computeThreads));
    Map<String, Object> report = new LinkedHashMap<>();
    try (RemoteMachine machine = RemoteMachine.builder().provider(provider).config(config).open()) {
      Map<String, Object> facts = MachineFacts.collect();
      facts.put("libtorch", machine.info().libtorchVersion());
      facts.put("computeThreadsLocal", computeThreads);
      facts.put("computeThreadsRemote", machine.info().computeThreads());
      facts.put("remoteDevice", machine.info().devices().get(0).name());
      report.put("when", Instant.now().truncatedTo(ChronoUnit.SECONDS).toString());
      report.put("quick", quick);
      report.put("machine", facts);
      printFacts(facts);
      if (recovery) {
        measureRecovery(machine, config, report);
      } else {
        measureAll(machine, report);
      }
    }
    if (json != null) {
      writeJson(report);
    }
    return 0;
  }

  private List<Workload> workloads() {
    int reads = quick ? 50 : 1_000;
    List<Workload> all = new ArrayList<>();
    all.add(new ChainedAdds(8, quick ? 5_000 : 200_000, ">= 0.90"));
    all.add(new ChainedAdds(256, quick ? 500 : 10_000, ">= 1.0"));
    all.add(new PureViews(quick ? 5_000 : 200_000));
    all.add(Latency.item(reads));
    all.addAll(Latency.shapesThatDependOnValues(reads));
    all.add(new Transfers(64));
    all.add(new SmallUploads(quick ? 1_000 : 20_000));
    all.add(Latency.smallDownload(reads));
    all.add(Latency.element(reads));
    all.add(Training.mlp(quick ? 10 : 400));
    all.add(Training.gpt(quick ? 2 : 15));
    all.add(Training.convolutions(quick ? 5 : 50));
    all.add(new Generation(quick ? 20 : 200));
    return all.stream()
        .filter(workload -> workload.figures().stream().anyMatch(f -> isWanted(f.key())))
        .toList();
  }

  private boolean isWanted(String key) {
    return only.isEmpty() || only.contains(key);
  }

  private void measureAll(RemoteMachine machine, Map<String, Object> report) throws IOException {
    Side local = Side.local();
    Side remote = Side.remote(machine);
    Map<String, Object> figures = new LinkedHashMap<>();
    // This must come first: later the machine has already seen these operations.
    Map<String, Double> wireBytes = new LinkedHashMap<>();
    measureWire("chainedAdds8x8", new ChainedAdds(8, 100, ""), remote, wireBytes);
    measureWire("mlpTraining", Training.mlp(1), remote, wireBytes);
    measureWire("gptTraining", Training.gpt(1), remote, wireBytes);
    out()
        .printf(
            "%n%-36s %12s %12s %8s  %-8s %-17s %s%n",
            "", "remote", "local", "ratio", "unit", "of a bare socket", "target");
    List<Double> pingPongs = new ArrayList<>();
    List<Double> rates = new ArrayList<>();
    try (Loopback loopback = new Loopback()) {
      for (int i = 0; i < repeats(); i++) {
        loopback.measure(); // warms up the JVM
      }
      for (Workload workload : workloads()) {
        for (Measurement measurement : measure(workload, local, remote, loopback)) {
          figures.put(measurement.figure().key(), measurement.toJson());
          print(measurement);
          switch (measurement.figure().yardstick()) {
            case NONE -> {}
            case PING_PONG -> pingPongs.addAll(measurement.bare());
            case SOCKET -> rates.addAll(measurement.bare());
          }
        }
      }
    }
    measureFirstSecond(figures);
    report.put("figures", figures);
    report.put("wireBytesPerOperation", wireBytes);
    report.put("peakResidentBytes", peakResidentBytes());
    printBare("bare loopback ping-pong, us", pingPongs);
    printBare("bare loopback socket, MB/s", rates);
    out().printf("%nwire bytes per operation (target: <= 30 first, <= 4 repeated):%n");
    wireBytes.forEach((key, bytes) -> out().printf("  %-34s %12s%n", key, rounded(bytes)));
    out().flush();
  }

  private void measureRecovery(RemoteMachine plain, Config config, Map<String, Object> report)
      throws IOException {
    Config recovering =
        ConfigFactory.parseString(
                "remora.recovery { mode = replay, checkpoint-interval = 10 seconds }")
            .withFallback(config);
    Map<String, Object> figures = new LinkedHashMap<>();
    out()
        .printf(
            "%n%-36s %12s %12s %8s  %-8s %-17s %s%n",
            "", "recovery", "without", "ratio", "unit", "of a bare socket", "target");
    try (RemoteMachine machine =
            RemoteMachine.builder().provider(provider).config(recovering).open();
        Loopback loopback = new Loopback()) {
      List<Workload> workloads =
          List.of(
              Training.mlp(quick ? 10 : 400),
              Training.gpt(quick ? 2 : 15),
              Training.convolutions(quick ? 5 : 50),
              Latency.item(quick ? 50 : 1_000));
      for (Workload workload : workloads) {
        for (Measurement measurement :
            measure(workload, Side.remote(plain), Side.remote(machine), loopback)) {
          figures.put(measurement.figure().key(), measurement.toJson());
          print(measurement);
        }
      }
      out().printf("%ncheckpoints: %s%n", machine.stats().get("checkpoints").longValue());
    }
    report.put("recovery", figures);
  }

  private void printBare(String title, List<Double> values) {
    if (!values.isEmpty()) {
      out().printf("%-36s %12s%n", title, rounded(Measurement.median(values)));
    }
  }

  /** Counts the bytes of one run that the machine has not seen yet, and of the runs after it. */
  private static void measureWire(
      String key, Workload workload, Side remote, Map<String, Double> bytes) {
    try (Workload.Prepared prepared = workload.prepare(remote)) {
      WireCounters start = remote.counters().get();
      prepared.run();
      WireCounters first = remote.counters().get();
      for (int i = 0; i < WIRE_REPEATS; i++) {
        prepared.run();
      }
      WireCounters last = remote.counters().get();
      bytes.put(key + ".first", first.minus(start).bytesPerOperation());
      bytes.put(key + ".repeated", last.minus(first).bytesPerOperation());
    }
  }

  /** Measures adds and item() calls in programs that have just started. */
  private void measureFirstSecond(Map<String, Object> figures) throws IOException {
    List<Workload.Figure> wanted =
        List.of(
            new Workload.Figure(
                "firstSecondAdds", "first second: adds 8x8", "ops/s", true, ">= 0.60"),
            new Workload.Figure(
                "firstSecondItems",
                "first second: item() p50",
                "us",
                false,
                "<= 3.75 ping-pongs",
                Yardstick.PING_PONG));
    try (Loopback loopback = new Loopback()) {
      for (Workload.Figure figure : wanted) {
        if (isWanted(figure.key())) {
          String name = figure.key().equals("firstSecondItems") ? "items" : "adds";
          loopback.measure();
          Measurement measurement =
              new Measurement(
                  figure,
                  List.of(FirstSecond.measure(name, false, computeThreads, provider)),
                  List.of(FirstSecond.measure(name, true, computeThreads, provider)),
                  List.of(figure.yardstick().of(loopback.measure())));
          figures.put(figure.key(), measurement.toJson());
          print(measurement);
        }
      }
    }
  }

  /** Runs one workload on both sides in turn, once unmeasured and then {@link #repeats()} times. */
  private List<Measurement> measure(Workload workload, Side local, Side remote, Loopback loopback) {
    List<Measurement> measurements =
        workload.figures().stream()
            .map(
                figure ->
                    new Measurement(
                        figure, new ArrayList<>(), new ArrayList<>(), new ArrayList<>()))
            .toList();
    try (Workload.Prepared here = workload.prepare(local);
        Workload.Prepared there = workload.prepare(remote)) {
      here.run();
      there.run();
      for (int repeat = 0; repeat < repeats(); repeat++) {
        double[] localValues = here.run();
        double[] remoteValues = there.run();
        Loopback.Figures bare = loopback.measure();
        for (int i = 0; i < measurements.size(); i++) {
          Measurement measurement = measurements.get(i);
          measurement.local().add(localValues[i]);
          measurement.remote().add(remoteValues[i]);
          measurement.bare().add(measurement.figure().yardstick().of(bare));
        }
      }
    }
    return measurements;
  }

  private int repeats() {
    if (repeats > 0) {
      return repeats;
    }
    return quick ? 2 : 7;
  }

  private static Map<String, Object> peakResidentBytes() {
    Map<String, Object> peaks = new LinkedHashMap<>();
    peaks.put("program", MachineFacts.peakResidentBytes(ProcessHandle.current().pid()));
    peaks.put(
        "childProcesses",
        ProcessHandle.current()
            .children()
            .mapToLong(child -> MachineFacts.peakResidentBytes(child.pid()))
            .sum());
    return peaks;
  }

  private void printFacts(Map<String, Object> facts) {
    facts.forEach((key, value) -> out().printf("%-22s %s%n", key, value));
    out().flush();
  }

  private void print(Measurement measurement) {
    out()
        .printf(
            Locale.ROOT,
            "%-36s %12s %12s %8.2f  %-8s %-17s %s%n",
            measurement.figure().title(),
            rounded(measurement.remoteMedian()),
            rounded(measurement.localMedian()),
            measurement.ratio(),
            measurement.figure().unit(),
            measurement.figure().yardstick().multiple(measurement.multiple()),
            measurement.figure().target());
    out().flush();
  }

  private static String rounded(double value) {
    return String.format(Locale.ROOT, value < 100 ? "%.1f" : "%,.0f", value);
  }

  private void writeJson(Map<String, Object> report) throws IOException {
    String text =
        ConfigValueFactory.fromMap(report)
            .render(ConfigRenderOptions.concise().setFormatted(true).setJson(true));
    Files.writeString(json, text + "\n");
    out().printf("written to %s%n", json);
    out().flush();
  }

  private PrintWriter out() {
    return spec.commandLine().getOut();
  }
}
