// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import io.remora.provider.LaunchToken;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A real node process and its output. Closing it kills the process. */
final class NodeProcess implements AutoCloseable {

  private static final Pattern ANNOUNCEMENT =
      Pattern.compile("remora-node listening on (.+):(\\d+)");

  private final Process process;
  private final List<String> output = new CopyOnWriteArrayList<>();
  private final List<String> log = new CopyOnWriteArrayList<>();
  private final List<Thread> readers = new ArrayList<>();
  private final CompletableFuture<InetSocketAddress> address = new CompletableFuture<>();

  private NodeProcess(Process process) {
    this.process = process;
    readers.add(read(process.getInputStream(), this::onOutput));
    readers.add(read(process.getErrorStream(), log::add));
  }

  /** Starts a node with a token and extra configuration. */
  static NodeProcess start(LaunchToken token, String configuration, String... arguments) {
    return start(Map.of(), token, configuration, arguments);
  }

  /** The same with more environment variables. */
  static NodeProcess start(
      Map<String, String> more, LaunchToken token, String configuration, String... arguments) {
    return start(more, "", token, configuration, arguments);
  }

  /** The same after a shell command that changes the file systems that the node sees. */
  static NodeProcess start(
      String mount, LaunchToken token, String configuration, String... arguments) {
    return start(Map.of(), mount, token, configuration, arguments);
  }

  private static NodeProcess start(
      Map<String, String> more,
      String mount,
      LaunchToken token,
      String configuration,
      String... arguments) {
    List<String> command =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-cp",
                System.getProperty("java.class.path"),
                Main.class.getName()));
    command.addAll(List.of(arguments));
    if (!mount.isEmpty()) {
      // In a name space of its own, in which every user may mount.
      command.addAll(0, List.of("unshare", "-rm", "sh", "-c", mount + " && exec \"$0\" \"$@\""));
    }
    ProcessBuilder builder = new ProcessBuilder(command);
    Map<String, String> environment = builder.environment();
    environment.put("REMORA_NODE_TOKEN", token.value());
    environment.put("REMORA_NODE_CONFIG", configuration);
    environment.put("OMP_NUM_THREADS", "1");
    environment.putAll(more);
    try {
      return new NodeProcess(builder.start());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Waits for the announced address. */
  InetSocketAddress address() throws Exception {
    CompletableFuture<Object> either =
        CompletableFuture.anyOf(address, process.onExit().thenApply(p -> "ended"));
    assertThat(either.get(100, TimeUnit.SECONDS))
        .as("address of a node that logged %s", log)
        .isInstanceOf(InetSocketAddress.class);
    return address.join();
  }

  /** Waits for the end of the process and of its log. */
  int exitCode(Duration limit) throws InterruptedException {
    assertThat(process.waitFor(limit.toMillis(), TimeUnit.MILLISECONDS))
        .as("node has ended within %s; it logged %s", limit, log)
        .isTrue();
    for (Thread reader : readers) {
      reader.join(limit.toMillis());
    }
    return process.exitValue();
  }

  void closeStandardInput() throws IOException {
    process.getOutputStream().close();
  }

  Process process() {
    return process;
  }

  List<String> output() {
    return output;
  }

  String log() {
    return String.join("\n", log);
  }

  @Override
  public void close() {
    process.destroyForcibly();
  }

  private void onOutput(String line) {
    output.add(line);
    Matcher announcement = ANNOUNCEMENT.matcher(line);
    if (announcement.matches()) {
      address.complete(
          new InetSocketAddress(announcement.group(1), Integer.parseInt(announcement.group(2))));
    }
  }

  private static Thread read(InputStream stream, Consumer<String> consumer) {
    Thread reader =
        new Thread(
            () -> {
              try (BufferedReader lines =
                  new BufferedReader(new InputStreamReader(stream, UTF_8))) {
                lines.lines().forEach(consumer);
              } catch (IOException | UncheckedIOException e) {
                // The process was killed.
              }
            });
    reader.setDaemon(true);
    reader.start();
    return reader;
  }
}
