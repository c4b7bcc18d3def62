// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.launch;

import akka.Done;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.Reader;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Consumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A local process that is a node, or a command that runs a node elsewhere and ends with it. One
 * line of its standard output announces the node's address; all other output goes to the node's
 * log. Start the node with {@code --exit-with-stdin}, so that it ends with the process's standard
 * input and does not outlive this JVM, even if the JVM is killed. Thread-safe.
 */
public final class NodeProcess {

  private static final Logger log = LoggerFactory.getLogger(NodeProcess.class);

  private static final Pattern ANNOUNCEMENT =
      Pattern.compile("remora-node listening on (.{1,255}):(\\d{1,5})");

  /** Variables that would also attach this program's debugger or profiler to the node. */
  private static final List<String> PROGRAM_ONLY_VARIABLES =
      List.of("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS");

  /**
   * A shell command that ignores Ctrl-C, which reaches all processes of a terminal. This program
   * decides when the node ends.
   */
  private static final List<String> IGNORING_INTERRUPTS =
      List.of("/bin/sh", "-c", "trap '' INT; exec \"$0\" \"$@\"");

  private static final int MAX_LINE = 16 * 1024;

  /** How often a wait checks whether the node is still wanted. */
  private static final Duration LOOK_AFTER = Duration.ofMillis(100);

  /** How long to read the output of an ended process, which another process may hold open. */
  private static final Duration LAST_OUTPUT = Duration.ofSeconds(1);

  private final MachineSpec spec;
  private final Process process;
  private final NodeLog nodeLog;
  private final CompletableFuture<InetSocketAddress> announced = new CompletableFuture<>();
  private final CompletableFuture<NodeExit> exited = new CompletableFuture<>();
  private final CompletableFuture<Done> terminated = new CompletableFuture<>();
  private final AtomicBoolean terminating = new AtomicBoolean();

  private NodeProcess(MachineSpec spec, Process process, NodeLog nodeLog) {
    this.spec = spec;
    this.process = process;
    this.nodeLog = nodeLog;
  }

  /**
   * Starts a process.
   *
   * @param builder its command and environment, which this changes
   * @param input bytes for its standard input, {@link NodeEnvironment#MAX_LINE_BYTES} at most; the
   *     stream stays open after them
   * @throws ProviderException if the command does not exist, or no process can be started
   */
  public static NodeProcess start(
      MachineSpec spec, ProcessBuilder builder, byte[] input, NodeLog nodeLog) {
    String name = builder.command().get(0);
    List<String> command = new ArrayList<>(IGNORING_INTERRUPTS);
    command.addAll(builder.command());
    PROGRAM_ONLY_VARIABLES.forEach(builder.environment()::remove);
    NodeProcess started;
    try {
      started = new NodeProcess(spec, builder.command(command).start(), nodeLog);
    } catch (IOException e) {
      throw new ProviderException(
          "the node process cannot be started with %s: %s".formatted(name, e.getMessage()), e);
    }
    started.startThreads();
    started.write(input);
    return started;
  }

  /** The process id. */
  public long pid() {
    return process.pid();
  }

  /** Whether the process runs. */
  public boolean isAlive() {
    return process.toHandle().isAlive();
  }

  /**
   * Waits for the line that announces the node's address; kills the process if the line does not
   * arrive in time.
   *
   * @param limit how long to wait; the machine's open timeout applies as well
   * @param limitKey the limit's key in the configuration, for the message
   * @throws ProviderException if the process ends before, with its exit code and last lines, or if
   *     the node is no longer wanted
   * @throws ProvisioningTimeoutException if it takes too long
   */
  public InetSocketAddress awaitAddress(Duration limit, String limitKey, ProviderContext context) {
    Duration shorter = limit.compareTo(spec.openTimeout()) < 0 ? limit : spec.openTimeout();
    long end = System.nanoTime() + shorter.toNanos();
    try {
      while (true) {
        long wait = Math.min(LOOK_AFTER.toNanos(), end - System.nanoTime());
        try {
          return announced.get(wait, TimeUnit.NANOSECONDS);
        } catch (TimeoutException e) {
          if (context.abandoned().getAsBoolean()) {
            throw new ProviderException(
                "nobody waits for the node of machine %s any more".formatted(spec.name()), e);
          }
          if (System.nanoTime() - end >= 0) {
            throw new ProvisioningTimeoutException(
                "the node of machine %s was not ready after %s (%s, or the machine's open timeout)%s"
                    .formatted(spec.name(), shorter, limitKey, nodeLog.quoted()),
                e);
          }
        }
      }
    } catch (ProviderException e) {
      kill();
      throw e;
    } catch (InterruptedException e) {
      kill();
      Thread.currentThread().interrupt();
      throw new ProviderException(
          "interrupted while the node of machine %s was starting".formatted(spec.name()), e);
    } catch (ExecutionException e) {
      kill();
      throw new ProviderException(e.getCause().getMessage(), e.getCause());
    }
  }

  /** Completes when the process has ended. Never fails. */
  public CompletionStage<NodeExit> exited() {
    return exited.minimalCompletionStage();
  }

  /**
   * Ends the process: closes its standard input, then sends a signal to end, then kills it and its
   * child processes. Completes when that is done; further calls do nothing.
   *
   * @param limit time limit of each step
   * @param afterwards run when the process has ended, before the stage completes
   */
  public CompletionStage<Done> end(Duration limit, Runnable afterwards) {
    if (terminating.compareAndSet(false, true)) {
      // Use a separate thread, which works even while executors are being shut down.
      daemon("end", () -> end(limit.toMillis(), afterwards));
    }
    return terminated.minimalCompletionStage();
  }

  private void startThreads() {
    Thread output = daemon("out", () -> read(process.getInputStream(), this::outputLine));
    Thread errors = daemon("log", () -> read(process.getErrorStream(), nodeLog::line));
    daemon("exit", () -> awaitExit(output, errors));
  }

  /** Handles a line of standard output: the line with the address, or a line for the log. */
  private void outputLine(String line) {
    Matcher announcement = ANNOUNCEMENT.matcher(line);
    int port = announcement.matches() ? Integer.parseInt(announcement.group(2)) : 0;
    if (port >= 1 && port <= 65535) {
      announced.complete(new InetSocketAddress(announcement.group(1), port));
    } else {
      nodeLog.line(line);
    }
  }

  private void read(InputStream stream, Consumer<String> lines) {
    try (Reader reader =
        new BufferedReader(new InputStreamReader(stream, StandardCharsets.UTF_8))) {
      StringBuilder line = new StringBuilder();
      for (int next = reader.read(); next >= 0; next = reader.read()) {
        if (next == '\n') {
          lines.accept(line.toString().stripTrailing());
          line.setLength(0);
        } else if (line.length() < MAX_LINE) {
          line.append((char) next);
        }
      }
      if (!line.isEmpty()) {
        lines.accept(line.toString());
      }
    } catch (IOException e) {
      log.debug("Reading what process {} writes failed", pid(), e);
    }
  }

  private void awaitExit(Thread... readers) {
    int code = waitFor();
    try {
      for (Thread reader : readers) {
        reader.join(LAST_OUTPUT.toMillis());
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
    NodeExit exit = new NodeExit(code, nodeLog.lastLines(), MemoryLimit.describe());
    announced.completeExceptionally(
        new ProviderException(
            "the node of machine %s ended while it was starting: %s".formatted(spec.name(), exit)));
    exited.complete(exit);
  }

  /** Writes to standard input. The pipe has room, so this does not block. */
  private void write(byte[] input) {
    try {
      OutputStream stream = process.getOutputStream();
      stream.write(input);
      stream.flush();
    } catch (IOException e) {
      // The process has already ended: its exit has the reason.
      log.debug("Process {} takes no input", pid(), e);
    }
  }

  private int waitFor() {
    boolean interrupted = false;
    try {
      while (true) {
        try {
          return process.waitFor();
        } catch (InterruptedException e) {
          interrupted = true;
        }
      }
    } finally {
      if (interrupted) {
        Thread.currentThread().interrupt();
      }
    }
  }

  private void end(long limitMillis, Runnable afterwards) {
    List<ProcessHandle> started = descendants();
    try {
      try {
        process.getOutputStream().close();
      } catch (IOException e) {
        log.debug("Closing the standard input of process {} failed", pid(), e);
      }
      if (!process.waitFor(limitMillis, TimeUnit.MILLISECONDS)) {
        process.destroy();
        if (!process.waitFor(limitMillis, TimeUnit.MILLISECONDS)) {
          log.warn("Process {} of machine {} does not end and is killed", pid(), spec.name());
          kill();
        }
      }
    } catch (InterruptedException e) {
      kill();
      Thread.currentThread().interrupt();
    } finally {
      // Kill what a shell in between has left.
      started.forEach(ProcessHandle::destroyForcibly);
      try {
        afterwards.run();
      } finally {
        terminated.complete(Done.getInstance());
      }
    }
  }

  private void kill() {
    List<ProcessHandle> started = descendants();
    process.destroyForcibly();
    started.forEach(ProcessHandle::destroyForcibly);
    waitFor();
  }

  private List<ProcessHandle> descendants() {
    try (Stream<ProcessHandle> below = process.descendants()) {
      return below.toList();
    }
  }

  private Thread daemon(String what, Runnable body) {
    Thread thread = new Thread(body, "remora-node-%s-%s".formatted(what, spec.name()));
    thread.setDaemon(true);
    thread.start();
    return thread;
  }
}
