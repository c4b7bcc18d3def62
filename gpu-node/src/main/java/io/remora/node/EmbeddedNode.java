// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.util.Objects.requireNonNull;

import akka.Done;
import akka.actor.typed.ActorSystem;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import io.micrometer.core.instrument.Metrics;
import io.remora.actors.ClusterConfig;
import io.remora.actors.DeviceInfo;
import io.remora.actors.RemoraCluster;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.proto.Device;
import io.remora.actors.link.proto.Welcome;
import io.remora.metrics.HttpEndpoint;
import io.remora.runtime.BatchExecutor;
import io.remora.runtime.RemoraException;
import io.remora.runtime.TensorTransfers;
import io.remora.runtime.TorchLibrary;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.channels.ServerSocketChannel;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A running node in this JVM. {@link Main} runs one, and a provider can run one beside a program.
 *
 * <p>It has an actor system of its own, whose threads are daemons. All nodes and programs of one
 * JVM share libtorch and its compute threads. Thread-safe.
 */
public final class EmbeddedNode implements AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(EmbeddedNode.class);

  private static final Duration HTTP_LIMIT = Duration.ofSeconds(10);

  private final ActorSystem<NodeActor.Command> system;
  private final LinkServer server;
  private final NodeSettings settings;
  private final CompletableFuture<Done> ending;

  private EmbeddedNode(
      ActorSystem<NodeActor.Command> system,
      LinkServer server,
      NodeSettings settings,
      CompletableFuture<Done> ending) {
    this.ending = ending;
    this.system = system;
    this.server = server;
    this.settings = settings;
  }

  /**
   * Starts a node; returns when its link port is open.
   *
   * @param options what to start it with
   * @param config the whole configuration, {@code reference.conf} resolved into it
   * @return the node
   * @throws NodeStartException if the node cannot start; the message names the cause and the fix
   */
  public static EmbeddedNode start(NodeOptions options, Config config) {
    requireNonNull(options, "options");
    return start(options, config, TorchLoading.start(options.torchHome()));
  }

  /** Starts a node with a library that is already being loaded. */
  static EmbeddedNode start(NodeOptions options, Config config, TorchLoading torchLoading) {
    try {
      return startBeside(options, config, torchLoading);
    } catch (RuntimeException | Error e) {
      torchLoading.await();
      throw e;
    }
  }

  private static EmbeddedNode startBeside(
      NodeOptions options, Config config, TorchLoading torchLoading) {
    long startNanos = System.nanoTime();
    NodeSettings settings;
    LinkSettings linkSettings;
    try {
      settings = NodeSettings.from(config);
      linkSettings = LinkSettings.from(config);
      settings.checkLease(linkSettings);
    } catch (ConfigException | IllegalArgumentException e) {
      throw new NodeStartException(
          NodeStartException.Kind.CONFIGURATION, "wrong configuration: " + e.getMessage(), e);
    }
    String systemName = NodeSystem.name(options);
    Config systemConfig = NodeSystem.config(options, settings, config);
    ServerSocketChannel listening = LinkServer.open(options.listen(), linkSettings.tls());
    CompletableFuture<Done> ending = new CompletableFuture<>();
    ActorSystem<NodeActor.Command> system = null;
    try {
      system =
          ActorSystem.create(
              NodeActor.create(
                  settings,
                  options.device() == DeviceChoice.ESTIMATE
                      ? CountingExecutor::create
                      : BatchExecutor::create,
                  !options.seedNodes().isEmpty(),
                  () -> ending.complete(Done.getInstance())),
              systemName,
              systemConfig);
      if (!options.seedNodes().isEmpty()) {
        RemoraCluster.init(system);
      }
      CompletableFuture<InetSocketAddress> http = openHttp(system, settings);
      if (ClusterConfig.isBootstrap(options.seedNodes())) {
        awaitHttp(http, settings);
        ClusterConfig.bootstrap(system);
      }
      TorchLibrary torch = torchLoading.library();
      setComputeThreads(torch, options, settings);
      loadOperators(settings.operatorLibraries());
      GpuInventory inventory =
          GpuInventory.choose(
              kind -> GpuInventory.Accelerator.of(torch, kind),
              options.device(),
              options.gpuCount(),
              options.gpuType());
      log.info("libtorch {} from {}", torch.version(), torch.source());
      log.info(
          "Computing with {}; {} compute threads", inventory.summary(), torch.computeThreads());
      if (settings.http().isPresent()) {
        new NodeMetrics().bindTo(Metrics.globalRegistry);
        NodeMetrics.bindDevices(inventory.devices(), Metrics.globalRegistry);
      }
      awaitHttp(http, settings);
      NodeSettings.Transfer transfer = settings.transfer();
      TensorTransfers.configure(
          new TransferClient(linkSettings, transfer),
          transfer.maxTickets(),
          transfer.maxBytes(),
          transfer.ticketLifetime());
      LinkServer server =
          LinkServer.start(
              listening,
              new Handshake(options.token(), settings.tokenLifetime(), welcome(torch, inventory)),
              settings,
              linkSettings,
              system);
      server.tellMemory(new MemoryWatch(torch, inventory.devices()));
      system.tell(
          new NodeActor.Listening(
              server,
              inventory.executorNames(),
              inventory.devices().stream()
                  .map(d -> new DeviceInfo(d.name(), d.kind(), d.memoryBytes()))
                  .toList(),
              torch.version(),
              torch.computeThreads()));
      log.info(
          "Listening on {} after {} ms",
          LinkServer.text(server.address()),
          TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - startNanos));
      return new EmbeddedNode(system, server, settings, ending);
    } catch (RuntimeException | Error e) {
      close(listening);
      if (system != null) {
        system.terminate();
      }
      throw e;
    }
  }

  /**
   * The address of the link port.
   *
   * @return the address and the port
   */
  public InetSocketAddress address() {
    return server.address();
  }

  /**
   * Completes when the node has ended, by {@link #close} or because it had no owner.
   *
   * @return a stage that completes without a failure
   */
  public CompletionStage<Done> terminated() {
    return system.getWhenTerminated();
  }

  /** Completes when the node begins to end; operators may still run. */
  CompletionStage<Done> ending() {
    return ending;
  }

  /**
   * Ends the node and its sessions. Waits for running operators, for {@code
   * remora.node.shutdown-grace} at most; they then end in the background. Idempotent.
   */
  @Override
  public void close() {
    if (!end()) {
      log.warn(
          "An operator still runs {} ms after the node was told to end",
          settings.shutdownGrace().toMillis());
    }
  }

  /** When the node is to give notice that its life-time ends, measured from its start. */
  Optional<Duration> untilNotice() {
    return settings.untilNotice();
  }

  /**
   * Tells the machines that recover from the loss of a node that this one's life-time ends, and
   * waits until they have moved, or the time is over.
   *
   * @return whether there was such a machine; if not, the node had better work on
   */
  boolean giveNoticeOfEnd() {
    return giveNotice(
        "The node's life-time of %d s ends (remora.node.life-time)"
            .formatted(settings.lifeTime().toSeconds()),
        settings.noticeOfEnd());
  }

  /**
   * Tells the machines that recover from the loss of a node that this one will end, and waits until
   * they have moved, for {@code remora.node.notice-grace} at most.
   */
  void giveNotice(String reason) {
    NodeReadiness.Status.of(system).ending(reason);
    giveNotice(reason, settings.noticeGrace());
  }

  private boolean giveNotice(String reason, Duration limit) {
    long startNanos = System.nanoTime();
    try {
      int machines = server.giveNotice(reason, limit);
      if (machines > 0) {
        log.info(
            "{}. {} machine(s) were told, and the node has waited for them for {} ms",
            reason,
            machines,
            TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - startNanos));
      }
      return machines > 0;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    }
  }

  /** Like {@link #close}. Returns whether the node has ended. */
  boolean end() {
    system.tell(new NodeActor.End("it was told to"));
    try {
      terminated()
          .toCompletableFuture()
          .get(settings.shutdownGrace().toMillis(), TimeUnit.MILLISECONDS);
      return true;
    } catch (TimeoutException e) {
      return false;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    } catch (ExecutionException e) {
      throw new RemoraException("the node did not end properly: " + e.getCause(), e.getCause());
    }
  }

  /** Opens the HTTP endpoint at once, so that health is visible while the node starts. */
  private static CompletableFuture<InetSocketAddress> openHttp(
      ActorSystem<?> system, NodeSettings settings) {
    return settings.http().isPresent()
        ? HttpEndpoint.start(system).toCompletableFuture()
        : CompletableFuture.completedFuture(null);
  }

  private static void awaitHttp(CompletableFuture<InetSocketAddress> http, NodeSettings settings) {
    try {
      http.get(HTTP_LIMIT.toMillis(), TimeUnit.MILLISECONDS);
    } catch (ExecutionException | TimeoutException e) {
      throw new NodeStartException(
          NodeStartException.Kind.LISTEN,
          "metrics and health cannot be at %s (%s, --http): %s"
              .formatted(
                  settings.http().map(LinkServer::text).orElse(""),
                  NodeSettings.HTTP,
                  e.getCause() == null ? "no answer in time" : e.getCause().toString()),
          e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new RemoraException("interrupted while the node started", e);
    }
  }

  private static void loadOperators(List<String> libraries) {
    for (String library : libraries) {
      try {
        System.load(library);
        log.info("Loaded the operators of {}", library);
      } catch (UnsatisfiedLinkError e) {
        throw new NodeStartException(
            NodeStartException.Kind.LIBTORCH,
            "a library of remora.node.operator-libraries cannot be loaded: " + e.getMessage(),
            e);
      }
    }
  }

  private static void setComputeThreads(
      TorchLibrary torch, NodeOptions options, NodeSettings settings) {
    int threads =
        options.computeThreads() > 0 ? options.computeThreads() : settings.computeThreads();
    if (threads > 0) {
      torch.setComputeThreads(threads);
    }
  }

  private static void close(ServerSocketChannel listening) {
    try {
      listening.close();
    } catch (IOException e) {
      log.debug("Closing the link port failed", e);
    }
  }

  private static Welcome welcome(TorchLibrary torch, GpuInventory inventory) {
    List<Device> devices =
        inventory.devices().stream()
            .map(
                device ->
                    Device.newBuilder()
                        .setName(device.name())
                        .setKind(device.kind())
                        .setMemoryBytes(device.memoryBytes())
                        .build())
            .toList();
    return Welcome.newBuilder()
        .setNodeId(UUID.randomUUID().toString())
        .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
        .setLibtorchVersion(torch.version())
        .addAllDevices(devices)
        .setComputeThreads(torch.computeThreads())
        .build();
  }
}
