// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal.fake;

import io.remora.actors.testkit.FaultForwarder;
import io.remora.provider.modal.wire.GenericResult;
import io.remora.provider.modal.wire.GenericResult.GenericStatus;
import io.remora.provider.modal.wire.PortSpec;
import io.remora.provider.modal.wire.Sandbox;
import io.remora.provider.modal.wire.SandboxCreateRequest;
import io.remora.provider.modal.wire.SandboxTag;
import io.remora.provider.modal.wire.TunnelData;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.Reader;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.function.DoubleSupplier;
import java.util.stream.Stream;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A sandbox: a process of this computer with its own environment, working directory and ports,
 * which others reach only through forwarders. In its entrypoint, the container's port, mounted
 * volumes and class path are replaced by those of this computer. Thread-safe.
 */
public final class FakeSandbox {

  private static final Logger log = LoggerFactory.getLogger(FakeSandbox.class);

  /** The image's class path of the node, which is replaced by this program's class path. */
  private static final String NODE_CLASS_PATH = "/opt/remora/lib/*";

  private static final int EXIT_TIMEOUT = 124;
  private static final int EXIT_KILLED = 137;
  private static final int PIECE = 100;

  /** What a sandbox needs besides its definition. */
  record Surroundings(Path folder, Map<String, String> secrets, Map<String, Path> mounts) {}

  private final String id = Ids.next("sb");
  private final String taskId = Ids.next("ta");
  private final SandboxCreateRequest request;
  private final Surroundings surroundings;
  private final double createdAt;
  private final DoubleSupplier speed;
  private final EntryLog output = new EntryLog();
  private final EntryLog errors = new EntryLog();
  private final CompletableFuture<Void> started = new CompletableFuture<>();
  private final CompletableFuture<GenericResult> result = new CompletableFuture<>();
  private final Map<Integer, FaultForwarder> tunnels = new LinkedHashMap<>();

  // Guarded by this.
  private List<SandboxTag> tags;
  private Process process;
  private long startNanos;
  private long endNanos;
  private long activeNanos = System.nanoTime();
  private GenericResult ending;

  /**
   * Creates a sandbox that waits in the queue.
   *
   * @param speed how many seconds of the sandbox's limits pass in one second
   */
  FakeSandbox(
      SandboxCreateRequest request,
      Surroundings surroundings,
      double createdAt,
      DoubleSupplier speed) {
    this.request = request;
    this.surroundings = surroundings;
    this.createdAt = createdAt;
    this.speed = speed;
    this.tags = request.getTagsList();
  }

  /** The sandbox's id, "sb-…". */
  public String id() {
    return id;
  }

  String taskId() {
    return taskId;
  }

  SandboxCreateRequest request() {
    return request;
  }

  double createdAt() {
    return createdAt;
  }

  synchronized List<SandboxTag> tags() {
    return tags;
  }

  synchronized void setTags(List<SandboxTag> newTags) {
    tags = List.copyOf(newTags);
  }

  EntryLog log(boolean ofErrors) {
    return ofErrors ? errors : output;
  }

  /** The standard output so far. */
  public String printed() {
    return output.text();
  }

  /** Completes when the sandbox leaves the queue. */
  CompletableFuture<Void> started() {
    return started.copy();
  }

  /** Completes when the sandbox has ended. */
  CompletableFuture<GenericResult> result() {
    return result.copy();
  }

  /** Whether the sandbox is queued or running. */
  public boolean isRunning() {
    return !result.isDone();
  }

  /** Whether the sandbox has left the queue. */
  public boolean hasStarted() {
    return started.isDone();
  }

  /** The process; it exists from the start of the sandbox. */
  public synchronized ProcessHandle process() {
    if (process == null) {
      throw new IllegalStateException("sandbox " + id + " waits in the queue");
    }
    return process.toHandle();
  }

  /** The tunnel to the first port, for cutting, stalling and delaying it. */
  public synchronized FaultForwarder tunnel() {
    return tunnels.values().iterator().next();
  }

  synchronized List<TunnelData> tunnels() {
    List<TunnelData> data = new ArrayList<>();
    for (PortSpec spec : request.getDefinition().getOpenPorts().getPortsList()) {
      TunnelData.Builder tunnel =
          TunnelData.newBuilder()
              .setHost(id.toLowerCase(Locale.ROOT) + ".r5.modal.host.invalid")
              .setPort(443)
              .setContainerPort(spec.getPort());
      if (spec.getUnencrypted()) {
        InetSocketAddress address = tunnels.get(spec.getPort()).address();
        tunnel
            .setUnencryptedHost(address.getAddress().getHostAddress())
            .setUnencryptedPort(address.getPort());
      }
      data.add(tunnel.build());
    }
    return data;
  }

  int gpus() {
    return request.getDefinition().getResources().getGpuConfig().getCount();
  }

  /** Seconds of the sandbox's own time from its start until now, or until its end. */
  synchronized double runSeconds() {
    if (process == null) {
      return 0;
    }
    long end = endNanos == 0 ? System.nanoTime() : endNanos;
    return (end - startNanos) / 1e9 * speed.getAsDouble();
  }

  /** Takes the sandbox out of the queue and starts its process. */
  void start() {
    String failure = "";
    synchronized (this) {
      if (ending != null || process != null) {
        return;
      }
      try {
        launch();
      } catch (IOException e) {
        failure = "cannot start: " + e.getMessage();
        ending = FakeImages.result(GenericStatus.GENERIC_STATUS_INIT_FAILURE, failure);
      }
    }
    if (failure.isEmpty()) {
      started.complete(null);
    } else {
      finish();
    }
  }

  private void launch() throws IOException {
    Sandbox definition = request.getDefinition();
    Map<String, String> local = new LinkedHashMap<>();
    for (PortSpec spec : definition.getOpenPorts().getPortsList()) {
      int port = freePort();
      tunnels.put(
          spec.getPort(),
          new FaultForwarder(new InetSocketAddress(InetAddress.getLoopbackAddress(), port)));
      local.put("0.0.0.0:" + spec.getPort(), "127.0.0.1:" + port);
    }
    surroundings.mounts().forEach((path, folder) -> local.put(path, folder.toString()));
    local.put(NODE_CLASS_PATH, System.getProperty("java.class.path"));
    List<String> command =
        definition.getEntrypointArgsList().stream().map(word -> mapped(word, local)).toList();
    ProcessBuilder builder =
        new ProcessBuilder(command.isEmpty() ? List.of("sleep", "infinity") : command)
            .directory(Files.createDirectories(surroundings.folder()).toFile());
    Map<String, String> environment = builder.environment();
    // JavaCPP unpacks its native libraries below the home folder. In a new one it would unpack them
    // all again.
    Map<String, String> kept = Map.of("HOME", System.getProperty("user.home"));
    environment.clear();
    environment.putAll(kept);
    environment.put(
        "PATH",
        System.getProperty("java.home")
            + File.separator
            + "bin"
            + File.pathSeparator
            + "/usr/bin:/bin");
    environment.put("OMP_NUM_THREADS", "1");
    environment.put("MODAL_SANDBOX_ID", id);
    environment.put("MODAL_TASK_ID", taskId);
    surroundings.secrets().forEach((name, value) -> environment.put(name, mapped(value, local)));
    startNanos = System.nanoTime();
    activeNanos = startNanos;
    process = builder.start();
    process.getOutputStream().close();
    Thread out = daemon("out", () -> read(process.getInputStream(), output));
    Thread err = daemon("err", () -> read(process.getErrorStream(), errors));
    daemon("exit", () -> awaitExit(out, err));
  }

  /**
   * Ends the sandbox for {@link #terminate}, timeouts and {@link #evict}. The first reason counts.
   */
  private void end(GenericResult reason) {
    boolean queued;
    synchronized (this) {
      queued = process == null && ending == null;
      if (ending == null) {
        ending = reason;
      }
      if (process != null) {
        try (Stream<ProcessHandle> below = process.descendants()) {
          List<ProcessHandle> all = below.toList();
          process.destroyForcibly();
          all.forEach(ProcessHandle::destroyForcibly);
        }
      }
    }
    if (queued) {
      finish();
    }
    result.join();
  }

  void terminate() {
    end(
        FakeImages.result(GenericStatus.GENERIC_STATUS_TERMINATED, "").toBuilder()
            .setExitcode(EXIT_KILLED)
            .build());
  }

  /** Ends the sandbox as when a cloud takes away its host. */
  public void evict() {
    end(
        FakeImages.result(
                GenericStatus.GENERIC_STATUS_MEMORY_MANAGER_EVICTION,
                "the sandbox used more memory than its worker had")
            .toBuilder()
            .setExitcode(EXIT_KILLED)
            .build());
  }

  /** Ends the sandbox if one of its time limits has passed. */
  void checkLimits() {
    Sandbox definition = request.getDefinition();
    boolean overdue;
    boolean idle;
    synchronized (this) {
      if (process == null || result.isDone()) {
        return;
      }
      long now = System.nanoTime();
      if (tunnels.values().stream().anyMatch(tunnel -> tunnel.open() > 0)) {
        activeNanos = now;
      }
      overdue = (now - startNanos) / 1e9 * speed.getAsDouble() >= definition.getTimeoutSecs();
      idle =
          definition.hasIdleTimeoutSecs()
              && (now - activeNanos) / 1e9 * speed.getAsDouble() >= definition.getIdleTimeoutSecs();
    }
    if (overdue || idle) {
      GenericStatus status =
          overdue
              ? GenericStatus.GENERIC_STATUS_TIMEOUT
              : GenericStatus.GENERIC_STATUS_IDLE_TIMEOUT;
      end(FakeImages.result(status, "").toBuilder().setExitcode(EXIT_TIMEOUT).build());
    }
  }

  private void awaitExit(Thread out, Thread err) {
    try {
      int code = process.waitFor();
      out.join();
      err.join();
      synchronized (this) {
        if (ending == null) {
          GenericStatus status =
              code == 0
                  ? GenericStatus.GENERIC_STATUS_SUCCESS
                  : GenericStatus.GENERIC_STATUS_FAILURE;
          ending = FakeImages.result(status, "").toBuilder().setExitcode(code).build();
        }
      }
      finish();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /** Reports the end without holding the lock, since listeners may lock other sandboxes. */
  private void finish() {
    GenericResult reason;
    synchronized (this) {
      endNanos = System.nanoTime();
      reason = ending;
      tunnels.values().forEach(FakeSandbox::close);
    }
    output.end();
    errors.end();
    delete(surroundings.folder());
    log.info("Sandbox {} has ended: {}", id, reason.getStatus());
    result.complete(reason);
  }

  private static void read(InputStream stream, EntryLog into) {
    char[] piece = new char[PIECE];
    try (Reader reader = new InputStreamReader(stream, StandardCharsets.UTF_8)) {
      for (int count = reader.read(piece); count >= 0; count = reader.read(piece)) {
        into.add(new String(piece, 0, count));
      }
    } catch (IOException e) {
      log.debug("A sandbox's output has ended", e);
    }
  }

  private static String mapped(String text, Map<String, String> local) {
    String mapped = text;
    for (Map.Entry<String, String> each : local.entrySet()) {
      mapped = mapped.replace(each.getKey(), each.getValue());
    }
    return mapped;
  }

  private static int freePort() throws IOException {
    try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      return socket.getLocalPort();
    }
  }

  private static void close(FaultForwarder forwarder) {
    try {
      forwarder.close();
    } catch (IOException e) {
      log.debug("Closing a tunnel failed", e);
    }
  }

  static void delete(Path folder) {
    if (!Files.exists(folder)) {
      return;
    }
    try (Stream<Path> all = Files.walk(folder)) {
      for (Path path : all.sorted(Comparator.reverseOrder()).toList()) {
        Files.deleteIfExists(path);
      }
    } catch (IOException | UncheckedIOException e) {
      log.debug("{} could not be deleted", folder, e);
    }
  }

  private Thread daemon(String what, Runnable body) {
    Thread thread = new Thread(body, "fake-modal-%s-%s".formatted(what, id));
    thread.setDaemon(true);
    thread.start();
    return thread;
  }
}
