// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * Another member of a test's cluster, in its own JVM: a node, or a {@linkplain ClusterProgram
 * program} that carries out orders. Closing it kills the JVM.
 */
final class ClusterMember implements AutoCloseable {

  private static final long LIMIT_SECONDS = 120;

  private final Process process;
  private final PrintWriter orders;
  private final BlockingQueue<String> output = new LinkedBlockingQueue<>();
  private final List<String> log = new ArrayList<>();

  private ClusterMember(Process process) {
    this.process = process;
    this.orders = new PrintWriter(process.getOutputStream(), true, UTF_8);
    Thread reader = new Thread(this::read, "cluster-member");
    reader.setDaemon(true);
    reader.start();
  }

  /** A node with {@code gpus} simulated A100s; the seed listens on port {@code seed}. */
  static ClusterMember node(int seed, int port, int gpus) throws IOException {
    List<String> arguments =
        List.of(
            "io.remora.node.Main",
            "--seed-nodes=127.0.0.1:" + seed,
            "--gpu-type=A100",
            "--gpu-count=" + gpus,
            "--device=cpu",
            "--compute-threads=1");
    return new ClusterMember(
        start(
            arguments,
            Map.of("REMORA_NODE_CONFIG", "remora.cluster.listen = \"127.0.0.1:" + port + "\"")));
  }

  /**
   * A node that looks for other members by Cluster Bootstrap, and answers them on port {@code
   * http}.
   */
  static ClusterMember bootstrappedNode(String settings, int http) throws IOException {
    return new ClusterMember(
        start(
            List.of(
                "io.remora.node.Main",
                "--seed-nodes=bootstrap",
                "--http=" + http,
                "--device=cpu",
                "--compute-threads=1"),
            Map.of("REMORA_NODE_CONFIG", settings)));
  }

  /** A program that takes orders: see {@link ClusterProgram}. */
  static ClusterMember program(int seed, Path state, String... properties) throws IOException {
    List<String> arguments = new ArrayList<>();
    arguments.add("-Dremora.cluster.seed-nodes.0=127.0.0.1:" + seed);
    arguments.add("-Dremora.state.directory=" + state);
    for (String property : properties) {
      arguments.add("-D" + property);
    }
    arguments.add(ClusterProgram.class.getName());
    return new ClusterMember(start(arguments, Map.of()));
  }

  private static Process start(List<String> arguments, Map<String, String> environment)
      throws IOException {
    List<String> command =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-Djava.util.concurrent.ForkJoinPool.common.parallelism=2",
                "-cp",
                System.getProperty("java.class.path")));
    command.addAll(arguments);
    ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
    builder.environment().put("OMP_NUM_THREADS", "1");
    builder.environment().putAll(environment);
    return builder.start();
  }

  /** Waits for a line of output that starts with this text; returns the rest of the line. */
  String await(String start) throws InterruptedException {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(LIMIT_SECONDS);
    while (true) {
      String line = output.poll(deadline - System.nanoTime(), TimeUnit.NANOSECONDS);
      if (line == null) {
        throw new AssertionError("no '%s' from a member that said %s".formatted(start, said()));
      }
      if (line.startsWith(start)) {
        return line.substring(start.length()).strip();
      }
    }
  }

  /** Gives an order and waits until it is carried out; returns its result. */
  String order(String order) throws InterruptedException {
    orders.println(order);
    return await("done " + order);
  }

  Process process() {
    return process;
  }

  private String said() {
    synchronized (log) {
      return String.join("\n", log);
    }
  }

  private void read() {
    try (BufferedReader lines =
        new BufferedReader(new InputStreamReader(process.getInputStream(), UTF_8))) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        synchronized (log) {
          log.add(line);
        }
        output.add(line);
      }
    } catch (IOException e) {
      output.add("ended: " + e);
    }
  }

  @Override
  public void close() throws InterruptedException {
    process.destroyForcibly().waitFor();
  }
}
