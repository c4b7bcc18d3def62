// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import io.remora.core.OwnJava;
import io.remora.runtime.TorchLibrary;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * Measures a workload in the first second of a program, while its JVMs are still cold. Each
 * measurement runs in its own program.
 */
final class FirstSecond {

  private static final String ANSWER = "first second: ";
  private static final long SECOND = 1_000_000_000L;

  private FirstSecond() {}

  /** Starts a program that measures a workload, on one side, and returns the figure. */
  static double measure(String workload, boolean remote, int computeThreads, String provider)
      throws IOException {
    List<String> command = new ArrayList<>();
    command.add(OwnJava.command().toString());
    command.addAll(List.of("-cp", System.getProperty("java.class.path")));
    command.add("-Djava.util.concurrent.ForkJoinPool.common.parallelism=2");
    command.add(FirstSecond.class.getName());
    command.addAll(
        List.of(workload, remote ? "remote" : "local", Integer.toString(computeThreads), provider));
    Process process =
        new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    try (BufferedReader output =
        new BufferedReader(
            new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8))) {
      List<String> lines = output.lines().toList(); // until the program has ended
      return lines.stream()
          .filter(line -> line.startsWith(ANSWER))
          .mapToDouble(line -> Double.parseDouble(line.substring(ANSWER.length())))
          .findFirst()
          .orElseThrow(
              () -> new IOException("the program that measures a first second has failed"));
    } finally {
      process.destroy();
    }
  }

  /** Measures one workload: name, side, compute threads, provider. */
  public static void main(String[] args) {
    int threads = Integer.parseInt(args[2]);
    TorchLibrary.bytedeco().setComputeThreads(threads);
    if (args[1].equals("local")) {
      answer(args[0], Side.local());
      return;
    }
    Config config = ConfigFactory.parseMap(Map.of("remora.provider.mock.compute-threads", threads));
    try (RemoteMachine machine = RemoteMachine.builder().provider(args[3]).config(config).open()) {
      answer(args[0], Side.remote(machine));
    }
  }

  private static void answer(String workload, Side side) {
    boolean items = workload.equals("items");
    try (Workload.Prepared prepared =
        (items ? Latency.item(100) : new ChainedAdds(8, 1000, "")).prepare(side)) {
      List<Double> values = new ArrayList<>();
      long begin = System.nanoTime();
      while (System.nanoTime() - begin < SECOND) {
        values.add(prepared.run()[0]);
      }
      double seconds = (System.nanoTime() - begin) / 1e9;
      System.out.println(
          ANSWER + (items ? Measurement.median(values) : values.size() * 1000 / seconds));
    }
  }
}
