// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import akka.Done;
import io.grpc.Status;
import io.remora.actors.link.LinkTls;
import io.remora.core.Backoff;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.NodeUsage;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.launch.NodeLog;
import io.remora.provider.modal.ModalApi.Limits;
import io.remora.provider.modal.ModalApi.RefusedException;
import io.remora.provider.modal.wire.FileDescriptor;
import io.remora.provider.modal.wire.GenericResult;
import io.remora.provider.modal.wire.ModalClientClient;
import io.remora.provider.modal.wire.SandboxGetLogsRequest;
import io.remora.provider.modal.wire.SandboxGetResourceUsageRequest;
import io.remora.provider.modal.wire.SandboxGetResourceUsageResponse;
import io.remora.provider.modal.wire.SandboxGetTaskIdRequest;
import io.remora.provider.modal.wire.SandboxGetTaskIdResponse;
import io.remora.provider.modal.wire.SandboxGetTunnelsRequest;
import io.remora.provider.modal.wire.SandboxTagsSetRequest;
import io.remora.provider.modal.wire.SandboxTerminateRequest;
import io.remora.provider.modal.wire.SandboxWaitRequest;
import io.remora.provider.modal.wire.TaskLogs;
import io.remora.provider.modal.wire.TunnelData;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.time.Instant;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A node in a sandbox. One thread reads its log and another waits for its end. The latter also
 * renews, at intervals, the tag that the owner is alive. Thread-safe.
 */
final class ModalNode implements ProvisionedNode {

  private static final Logger log = LoggerFactory.getLogger(ModalNode.class);

  private static final String ANNOUNCEMENT = "remora-node listening on ";
  private static final Duration POLL = Duration.ofMillis(500);
  private static final Duration LONG_POLL = Duration.ofSeconds(10);
  private static final Duration QUEUE_NEWS = Duration.ofSeconds(15);
  private static final Backoff BACKOFF = new Backoff(POLL, Duration.ofSeconds(30));
  private static final Duration LOG_AFTER_END = Duration.ofSeconds(3);
  private static final int MAX_BROKEN_STREAMS = 10;

  private final MachineSpec spec;
  private final ModalSettings settings;
  private final ModalApi api;
  private final String sandboxId;
  private final LaunchToken token;
  private final Optional<LinkTls> tls;
  private final NodeLog nodeLog;
  private final SandboxCost cost;
  private final Consumer<String> progress;
  private final CompletableFuture<Void> announced = new CompletableFuture<>();
  private final CompletableFuture<NodeExit> exited = new CompletableFuture<>();
  private final CountDownLatch logRead = new CountDownLatch(1);

  private volatile InetSocketAddress address;
  // Zero until it is known.
  private volatile long startedNanos;
  private volatile long endedNanos;
  private volatile NodeUsage counted;
  private volatile boolean closed;
  // Guarded by this.
  private CompletableFuture<Done> terminated;

  private ModalNode(
      MachineSpec spec,
      ModalSettings settings,
      ModalApi api,
      String sandboxId,
      SandboxLaunch launch,
      NodeLog nodeLog,
      Consumer<String> progress) {
    this.spec = spec;
    this.settings = settings;
    this.api = api;
    this.sandboxId = sandboxId;
    this.token = launch.token();
    this.tls = launch.tls();
    this.nodeLog = nodeLog;
    this.cost = SandboxCost.of(settings, launch.gpu(), spec.gpuCount());
    this.progress = progress;
  }

  /** Starts following a new sandbox. The node owns {@code api} from now on. */
  static ModalNode follow(
      MachineSpec spec,
      ModalSettings settings,
      ModalApi api,
      String sandboxId,
      SandboxLaunch launch,
      NodeLog nodeLog,
      ProviderContext context) {
    ModalNode node =
        new ModalNode(spec, settings, api, sandboxId, launch, nodeLog, context.progress());
    node.daemon("log", node::readLog);
    node.daemon("wait", node::awaitEnd);
    return node;
  }

  /**
   * Blocks until the node listens.
   *
   * @throws ProvisioningTimeoutException if the node does not listen in time
   * @throws ProviderException if the sandbox ends before; the message has the reason and the end of
   *     the log
   */
  void awaitListening(Deadline deadline, String gpu) {
    awaitGpu(deadline, gpu);
    startedNanos = System.nanoTime();
    progress.accept("sandbox %s runs on %d x %s".formatted(sandboxId, spec.gpuCount(), gpu));
    awaitTunnel(deadline);
    while (!announced.isDone()) {
      await(deadline, "the node in it did not listen" + nodeLog.quoted());
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
  public Optional<LinkTls> tls() {
    return tls;
  }

  @Override
  public String description() {
    return "Modal sandbox " + sandboxId;
  }

  @Override
  public CompletionStage<NodeExit> exited() {
    return exited.minimalCompletionStage();
  }

  @Override
  public Optional<NodeUsage> usage() {
    long started = startedNanos;
    if (counted != null || started == 0) {
      return Optional.of(counted == null ? NodeUsage.NONE : counted);
    }
    long until = endedNanos == 0 ? System.nanoTime() : endedNanos;
    return Optional.of(cost.of(Duration.ofNanos(until - started)));
  }

  @Override
  public CompletionStage<Done> terminate() {
    CompletableFuture<Done> result;
    synchronized (this) {
      if (terminated != null && !terminated.isCompletedExceptionally()) {
        return terminated.minimalCompletionStage();
      }
      terminated = new CompletableFuture<>();
      result = terminated;
    }
    // Use a separate thread, which works even while executors are being shut down.
    daemon("end", () -> end(result));
    return result.minimalCompletionStage();
  }

  // Starting ------------------------------------------------------------------------------------

  /** Waits until the sandbox has a task; until then it waits for a GPU. */
  private void awaitGpu(Deadline deadline, String gpu) {
    long begin = System.nanoTime();
    long told = begin;
    while (true) {
      SandboxGetTaskIdResponse response =
          api.call(
              "Asking whether the sandbox has a GPU",
              ModalClientClient::sandboxGetTaskId,
              SandboxGetTaskIdRequest.newBuilder()
                  .setSandboxId(sandboxId)
                  .setTimeout(POLL.toMillis() / 1000f)
                  .build(),
              deadline.limits(settings.callTimeout()));
      if (!response.getTaskId().isEmpty()) {
        return;
      }
      if (response.hasTaskResult() && SandboxResults.isEnd(response.getTaskResult())) {
        ended(response.getTaskResult());
      }
      long now = System.nanoTime();
      if (now - told >= QUEUE_NEWS.toNanos() || told == begin) {
        told = now;
        progress.accept(
            "sandbox %s waits for %d x %s, for %d s now"
                .formatted(
                    sandboxId, spec.gpuCount(), gpu, TimeUnit.NANOSECONDS.toSeconds(now - begin)));
      }
      await(
          deadline,
          ("Modal had no %d x %s free; another kind of GPU, or another region, may be "
                  + "available sooner")
              .formatted(spec.gpuCount(), gpu));
    }
  }

  private void awaitTunnel(Deadline deadline) {
    while (address == null) {
      for (TunnelData tunnel :
          api.call(
                  "Asking for the sandbox's tunnel",
                  ModalClientClient::sandboxGetTunnels,
                  SandboxGetTunnelsRequest.newBuilder()
                      .setSandboxId(sandboxId)
                      .setTimeout(deadline.atMost(LONG_POLL).toMillis() / 1000f)
                      .build(),
                  deadline.limits(LONG_POLL.plus(settings.callTimeout())))
              .getTunnelsList()) {
        if (tunnel.getContainerPort() == settings.sandbox().port()
            && !tunnel.getUnencryptedHost().isEmpty()) {
          InetSocketAddress found =
              new InetSocketAddress(tunnel.getUnencryptedHost(), tunnel.getUnencryptedPort());
          // A new name may be unknown for a moment.
          address = found.isUnresolved() ? null : found;
        }
      }
      if (address == null) {
        await(deadline, "it has no tunnel");
      }
    }
  }

  /** Waits a moment. Throws if the time is over or the sandbox has ended. */
  private void await(Deadline deadline, String otherwise) {
    NodeExit exit = exited.getNow(null);
    if (exit != null) {
      throw new ProviderException(
          "the sandbox of machine %s (%s) ended while it was starting: %s"
              .formatted(spec.name(), sandboxId, exit));
    }
    if (deadline.isOver()) {
      throw new ProvisioningTimeoutException(
          "the sandbox of machine %s (%s) was not ready after %s, the machine's open timeout: %s"
              .formatted(spec.name(), sandboxId, spec.openTimeout(), otherwise));
    }
    ModalApi.sleep(deadline.atMost(POLL), exited::isDone);
  }

  // Following -----------------------------------------------------------------------------------

  private void readLog() {
    LogPosition position = new LogPosition();
    TextLines lines = new TextLines(this::onLine);
    int broken = 0;
    try {
      while (!position.eof && !closed && broken <= MAX_BROKEN_STREAMS) {
        boolean last = endedNanos != 0;
        Duration poll = last ? LOG_AFTER_END : ModalApi.LONGEST_POLL;
        try {
          api.stream(
              "Reading the sandbox's log",
              ModalClientClient::sandboxGetLogs,
              SandboxGetLogsRequest.newBuilder()
                  .setSandboxId(sandboxId)
                  .setFileDescriptor(FileDescriptor.FILE_DESCRIPTOR_STDOUT)
                  .setTimeout((float) poll.toSeconds())
                  .setLastEntryId(position.entryId)
                  .build(),
              poll.plus(settings.callTimeout()),
              batch -> {
                for (TaskLogs item : batch.getItemsList()) {
                  lines.add(item.getData());
                }
                if (!batch.getEntryId().isEmpty()) {
                  position.entryId = batch.getEntryId();
                }
                position.eof |= batch.getEof();
              });
          broken = 0;
        } catch (RuntimeException e) {
          broken++;
          log.debug("Reading the log of {} failed", description(), e);
          ModalApi.sleep(Duration.ofMillis(100L * broken), () -> closed);
        }
        if (last) {
          break;
        }
      }
      lines.end();
    } catch (ProviderException e) {
      log.debug("Reading the log of {} was interrupted", description(), e);
    } finally {
      logRead.countDown();
    }
  }

  private void onLine(String line) {
    if (line.startsWith(ANNOUNCEMENT)) {
      announced.complete(null);
    } else {
      nodeLog.line(line);
    }
  }

  private void awaitEnd() {
    int failures = 0;
    long renewedNanos = System.nanoTime();
    while (!exited.isDone() && !closed) {
      try {
        GenericResult result = waitFor(LONG_POLL, LONG_POLL.plus(settings.callTimeout()));
        if (SandboxResults.isEnd(result)) {
          ended(result);
        }
        failures = 0;
      } catch (RuntimeException e) {
        if (isGone(e)) {
          ended(
              GenericResult.newBuilder()
                  .setStatus(GenericResult.GenericStatus.GENERIC_STATUS_TERMINATED)
                  .setException("Modal does not know the sandbox any more")
                  .build());
        }
        log.debug("Waiting for {} failed", description(), e);
        if (Thread.currentThread().isInterrupted()) {
          return;
        }
        failures++;
        ModalApi.sleep(BACKOFF.waitAfter(failures), () -> closed);
      }
      if (System.nanoTime() - renewedNanos > settings.ownerLease().dividedBy(3).toNanos()) {
        renewedNanos = System.nanoTime();
        renew();
      }
    }
  }

  private GenericResult waitFor(Duration poll, Duration attempt) {
    return api.call(
            "Waiting for the sandbox's end",
            ModalClientClient::sandboxWait,
            SandboxWaitRequest.newBuilder()
                .setSandboxId(sandboxId)
                .setTimeout(poll.toMillis() / 1000f)
                .build(),
            new Limits(attempt, attempt.multipliedBy(2), () -> closed))
        .getResult();
  }

  /** Renews the tag that the owner is alive. */
  private void renew() {
    try {
      api.call(
          "Renewing the sandbox's tags",
          ModalClientClient::sandboxTagsSet,
          SandboxTagsSetRequest.newBuilder()
              .setSandboxId(sandboxId)
              .addAllTags(SandboxTags.of(spec.name(), Instant.now(), settings.ownerLease()))
              .build(),
          new Limits(settings.callTimeout(), settings.callTimeout().multipliedBy(2)));
    } catch (RuntimeException e) {
      log.warn(
          "Machine {}: cannot renew the owner's tag of {}: {}",
          spec.name(),
          description(),
          e.getMessage());
    }
  }

  /**
   * Called when the sandbox has ended, on the thread that noticed. Waits for the rest of the log.
   */
  private void ended(GenericResult result) {
    if (endedNanos == 0) {
      endedNanos = System.nanoTime();
    }
    try {
      if (!logRead.await(LOG_AFTER_END.toMillis(), TimeUnit.MILLISECONDS)) {
        log.debug("The log of {} does not end", description());
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
    exited.complete(SandboxResults.exit(result, nodeLog.lastLines()));
  }

  // Ending --------------------------------------------------------------------------------------

  private void end(CompletableFuture<Done> result) {
    try {
      terminateSandbox();
    } catch (RuntimeException e) {
      result.completeExceptionally(
          new ProviderException(
              ("%s of machine %s may still run, and cost money: %s. It ends by itself when "
                      + "its node has had no owner for remora.node.orphan-timeout; `modal sandbox "
                      + "terminate %s` ends it now")
                  .formatted(description(), spec.name(), e.getMessage(), sandboxId),
              e));
      return;
    }
    closed = true;
    count();
    NodeUsage used = usage().orElse(NodeUsage.NONE);
    log.info(
        "Machine {}: {} has ended after {} GPU seconds, {} US dollars {}",
        spec.name(),
        description(),
        "%.1f".formatted(used.gpuSeconds()),
        "%.4f".formatted(used.dollars()),
        counted == null ? "by the clock" : "by what Modal has counted");
    api.close();
    result.complete(Done.getInstance());
  }

  /** Ends the sandbox and waits until Modal reports its end. */
  private void terminateSandbox() {
    Deadline deadline = Deadline.in(settings.stopTimeout(), () -> false);
    try {
      if (!exited.isDone()) {
        api.call(
            "Ending the sandbox",
            ModalClientClient::sandboxTerminate,
            SandboxTerminateRequest.newBuilder().setSandboxId(sandboxId).build(),
            deadline.limits(deadline.atMost(settings.callTimeout())));
      }
      while (!exited.isDone()) {
        GenericResult result =
            waitFor(deadline.atMost(POLL), deadline.atMost(settings.callTimeout()));
        if (SandboxResults.isEnd(result)) {
          ended(result);
        } else if (deadline.isOver()) {
          throw new ProvisioningTimeoutException(
              "it had not ended after %s (remora.provider.modal.stop-timeout)"
                  .formatted(settings.stopTimeout()));
        }
      }
    } catch (RuntimeException e) {
      if (!isGone(e)) {
        throw e;
      }
      exited.complete(new NodeExit(0, nodeLog.lastLines()));
    }
  }

  private void count() {
    try {
      SandboxGetResourceUsageResponse usage =
          api.call(
              "Asking what the sandbox has used",
              ModalClientClient::sandboxGetResourceUsage,
              SandboxGetResourceUsageRequest.newBuilder().setSandboxId(sandboxId).build(),
              new Limits(settings.callTimeout(), Duration.ofSeconds(2)));
      if (usage.getGpuNanosecs() > 0) {
        counted = cost.of(usage);
      }
    } catch (RuntimeException e) {
      log.debug("Modal does not report the usage of {}", description(), e);
    }
  }

  private static boolean isGone(RuntimeException e) {
    return e instanceof RefusedException refused && refused.code() == Status.Code.NOT_FOUND;
  }

  private void daemon(String what, Runnable body) {
    Thread thread = new Thread(body, "remora-modal-%s-%s".formatted(what, spec.name()));
    thread.setDaemon(true);
    thread.start();
  }

  /** The position in the log. One stream after the other writes it; it is read between them. */
  private static final class LogPosition {
    private volatile String entryId = "0-0";
    private volatile boolean eof;
  }
}
