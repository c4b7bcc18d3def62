// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigValueFactory;
import io.remora.benchmarks.Side.WireCounters;
import io.remora.client.RemoteMachine;
import io.remora.runtime.SessionStatistics;
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
import org.bytedeco.pytorch.Device;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/**
 * Runs the same workloads on a remote machine and on the local CPU, in turns and with the same
 * number of compute threads, and prints the medians side by side.
 */
@Command(
    name = "compare",
    showDefaultValues = true,
    description = {
      "Compares a remote machine with local libtorch, in one run.",
      "Each workload runs on both in turns; the table shows medians. A ratio of 1 means that remote"
          + " is as good as local, less means worse."
    })
public final class Compare implements Callable<Integer> {

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      description = "Show this and exit.")
  @SuppressWarnings("unused") // picocli looks at it
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

  @Option(names = "--provider", description = "Who provides the machine.", defaultValue = "mock")
  private String provider;

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
      measureAll(machine, report);
    }
    if (json != null) {
      writeJson(report);
    }
    return 0;
  }

  private List<Workload> workloads() {
    return List.of(
        new ChainedAdds(8, quick ? 5_000 : 200_000, ">= 0.60"),
        new ChainedAdds(256, quick ? 500 : 10_000, ""),
        new PureViews(quick ? 5_000 : 200_000),
        new RoundTrip(quick ? 200 : 2_000),
        new MlpTraining(quick ? 30 : 400),
        new Transfers(64));
  }

  private void measureAll(RemoteMachine machine, Map<String, Object> report) {
    Side local = new Side("local", new Device("cpu"), () -> {}, () -> WireCounters.ZERO);
    Side remote =
        new Side("remote", machine.device(), machine::synchronize, () -> counters(machine));
    Map<String, Object> figures = new LinkedHashMap<>();
    Map<String, Double> wireBytes = new LinkedHashMap<>();
    out()
        .printf(
            "%n%-36s %12s %12s %8s  %-8s %s%n", "", "remote", "local", "ratio", "unit", "target");
    for (Workload workload : workloads()) {
      WireCounters before = remote.counters().get();
      for (Measurement measurement : measure(workload, local, remote)) {
        figures.put(measurement.figure().key(), measurement.toJson());
        print(measurement);
      }
      WireCounters sent = remote.counters().get().minus(before);
      if (!(workload instanceof Transfers)) { // it has next to no operations
        wireBytes.put(workload.figures().get(0).key(), sent.bytesPerOperation());
      }
    }
    report.put("figures", figures);
    report.put("wireBytesPerOperation", wireBytes);
    report.put("peakResidentBytes", peakResidentBytes());
    out().printf("%nwire bytes per operation:%n");
    wireBytes.forEach((key, bytes) -> out().printf("  %-34s %12s%n", key, rounded(bytes)));
    out().flush();
  }

  /** Runs one workload in turns, once unmeasured and then {@link #repeats()} times. */
  private List<Measurement> measure(Workload workload, Side local, Side remote) {
    List<Measurement> measurements =
        workload.figures().stream()
            .map(figure -> new Measurement(figure, new ArrayList<>(), new ArrayList<>()))
            .toList();
    try (Workload.Prepared here = workload.prepare(local);
        Workload.Prepared there = workload.prepare(remote)) {
      here.run();
      there.run();
      for (int repeat = 0; repeat < repeats(); repeat++) {
        double[] localValues = here.run();
        double[] remoteValues = there.run();
        for (int i = 0; i < measurements.size(); i++) {
          measurements.get(i).local().add(localValues[i]);
          measurements.get(i).remote().add(remoteValues[i]);
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

  private static WireCounters counters(RemoteMachine machine) {
    SessionStatistics statistics = machine.statistics();
    // Batches carry uploads as well: those are data, not operations.
    return new WireCounters(
        statistics.operations(), statistics.batchBytes() - statistics.uploadedBytes());
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
            "%-36s %12s %12s %8.2f  %-8s %s%n",
            measurement.figure().title(),
            rounded(measurement.remoteMedian()),
            rounded(measurement.localMedian()),
            measurement.ratio(),
            measurement.figure().unit(),
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
