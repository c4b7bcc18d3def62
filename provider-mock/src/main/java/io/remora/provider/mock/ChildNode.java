// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import akka.Done;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.mock.NodeLaunch.Command;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A node in a child process. The child ends when its standard input does, so it never outlives this
 * JVM, even if that is killed. Thread-safe.
 */
final class ChildNode implements ProvisionedNode {

  private static final Logger log = LoggerFactory.getLogger(ChildNode.class);

  private static final Pattern ANNOUNCEMENT =
      Pattern.compile("remora-node listening on (.+):(\\d{1,5})");

  private final String machine;
  private final Process process;
  private final LaunchToken token;
  private final Duration stopTimeout;
  private final NodeLog nodeLog;
  private final CompletableFuture<InetSocketAddress> announced = new CompletableFuture<>();
  private final CompletableFuture<NodeExit> exited = new CompletableFuture<>();
  private final CompletableFuture<Done> terminated = new CompletableFuture<>();
  private final AtomicBoolean terminating = new AtomicBoolean();
  private volatile InetSocketAddress address;

  private ChildNode(
      MachineSpec spec, Process process, LaunchToken token, Duration stopTimeout, NodeLog nodeLog) {
    this.machine = spec.name();
    this.process = process;
    this.token = token;
    this.stopTimeout = stopTimeout;
    this.nodeLog = nodeLog;
  }

  /**
   * Starts a child; blocks until it has announced its address.
   *
   * @throws ProviderException if it ends before, with its exit code and last lines
   * @throws ProvisioningTimeoutException if it takes too long; it is killed then
   */
  static ChildNode start(
      MachineSpec spec, MockSettings settings, LaunchToken token, ProviderContext context) {
    long startNanos = System.nanoTime();
    NodeLog nodeLog = new NodeLog(spec.name());
    try (Command command = NodeLaunch.command(spec, settings, token, context.config(), nodeLog)) {
      ChildNode node = new ChildNode(spec, launch(command), token, settings.stopTimeout(), nodeLog);
      context.progress().accept("started %s for %s".formatted(node.description(), spec.name()));
      node.startThreads();
      node.awaitAddress(settings.startTimeout(), spec.openTimeout());
      log.debug(
          "{} listens on {} after {} ms",
          node.description(),
          node.address,
          TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - startNanos));
      return node;
    }
  }

  @Override
  public InetSocketAddress address() {
    return address;
  }

  @Override
  public LaunchToken token() {
    return token;
  }

  @Override
  public String description() {
    return "child process " + process.pid();
  }

  @Override
  public CompletionStage<NodeExit> exited() {
    return exited.minimalCompletionStage();
  }

  @Override
  public CompletionStage<Done> terminate() {
    if (terminating.compareAndSet(false, true)) {
      // A thread of its own: it must work while executors are being shut down.
      daemon("end", this::end);
    }
    return terminated.minimalCompletionStage();
  }

  private static Process launch(Command command) {
    try {
      return command.builder().start();
    } catch (IOException e) {
      throw new ProviderException(
          "the node process cannot be started with %s: %s"
              .formatted(command.builder().command().get(0), e.getMessage()),
          e);
    }
  }

  private void startThreads() {
    daemon("out", this::readOutput);
    daemon("log", this::readLog);
  }

  private void awaitAddress(Duration startTimeout, Duration openTimeout) {
    Duration limit = startTimeout.compareTo(openTimeout) < 0 ? startTimeout : openTimeout;
    try {
      address = announced.get(limit.toMillis(), TimeUnit.MILLISECONDS);
    } catch (TimeoutException e) {
      kill();
      throw new ProvisioningTimeoutException(
          "the node of machine %s was not ready after %s (remora.provider.mock.start-timeout, or the machine's open timeout)%s"
              .formatted(machine, limit, nodeLog.quoted()),
          e);
    } catch (InterruptedException e) {
      kill();
      Thread.currentThread().interrupt();
      throw new ProviderException(
          "interrupted while the node of machine %s was starting".formatted(machine), e);
    } catch (ExecutionException e) {
      kill();
      throw new ProviderException(e.getCause().getMessage(), e.getCause());
    }
  }

  /** The one line of standard output; what else comes there is logged. */
  private void readOutput() {
    try (BufferedReader lines = process.inputReader(StandardCharsets.UTF_8)) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        Matcher announcement = ANNOUNCEMENT.matcher(line);
        if (announcement.matches()) {
          announced.complete(
              new InetSocketAddress(
                  announcement.group(1), Integer.parseInt(announcement.group(2))));
        } else {
          nodeLog.line(line);
        }
      }
    } catch (IOException e) {
      log.debug("Reading the output of {} failed", description(), e);
    }
  }

  /** The log, and behind its end the process's. */
  private void readLog() {
    try (BufferedReader lines =
        new BufferedReader(
            new InputStreamReader(process.getErrorStream(), StandardCharsets.UTF_8))) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        nodeLog.line(line);
      }
    } catch (IOException e) {
      log.debug("Reading the log of {} failed", description(), e);
    }
    NodeExit exit = new NodeExit(waitFor(), nodeLog.lastLines());
    announced.completeExceptionally(
        new ProviderException(
            "the node of machine %s ended while it was starting: %s".formatted(machine, exit)));
    exited.complete(exit);
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

  /** Asks politely, then by signal, then kills. */
  private void end() {
    try {
      try {
        process.getOutputStream().close();
      } catch (IOException e) {
        log.debug("Closing the standard input of {} failed", description(), e);
      }
      if (!endsWithin(stopTimeout)) {
        process.destroy();
        if (!endsWithin(stopTimeout)) {
          log.warn("{} of machine {} does not end and is killed", description(), machine);
          kill();
          waitFor();
        }
      }
    } catch (InterruptedException e) {
      kill();
      Thread.currentThread().interrupt();
    } finally {
      terminated.complete(Done.getInstance());
    }
  }

  private boolean endsWithin(Duration limit) throws InterruptedException {
    return process.waitFor(limit.toMillis(), TimeUnit.MILLISECONDS);
  }

  private void kill() {
    process.destroyForcibly();
  }

  private void daemon(String what, Runnable body) {
    Thread thread = new Thread(body, "remora-node-%s-%s".formatted(what, machine));
    thread.setDaemon(true);
    thread.start();
  }
}
