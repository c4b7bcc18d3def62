// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import akka.Done;
import akka.actor.Cancellable;
import akka.actor.typed.ActorSystem;
import akka.http.javadsl.ConnectionContext;
import akka.http.javadsl.Http;
import akka.http.javadsl.HttpsConnectionContext;
import akka.http.javadsl.ServerBinding;
import akka.http.javadsl.ServerBuilder;
import akka.http.javadsl.settings.ServerSettings;
import akka.io.Inet;
import akka.stream.Materializer;
import akka.stream.SystemMaterializer;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.binder.MeterBinder;
import io.remora.actors.MachineActor;
import io.remora.gateway.internal.Connections;
import io.remora.gateway.internal.GatewayHandler;
import io.remora.gateway.internal.GatewayReadiness;
import io.remora.gateway.internal.Tls;
import io.remora.runtime.RemoraException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnknownHostException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletionStage;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Machines for programs that are not members of the Akka cluster, over gRPC. A gateway can run in
 * any member; {@link Main} runs one in a process of its own.
 *
 * <p>A machine that was opened through a gateway without {@code keep} lives as long as it has
 * sessions, but no longer than the gateway.
 */
public final class Gateway implements MeterBinder {

  private static final Logger log = LoggerFactory.getLogger(Gateway.class);
  private static final Duration TERMINATION_LIMIT = Duration.ofSeconds(1);

  private final ServerBinding binding;
  private final GatewayHandler handler;
  private final Cancellable sweeping;
  private final GatewayReadiness.Status status;

  private Gateway(
      ServerBinding binding,
      GatewayHandler handler,
      Cancellable sweeping,
      GatewayReadiness.Status status) {
    this.binding = binding;
    this.handler = handler;
    this.sweeping = sweeping;
    this.status = status;
    status.serves(true);
  }

  /**
   * Starts a gateway.
   *
   * @param system a member of the cluster that the machines are in
   * @return completes when the gateway accepts calls
   * @throws RemoraException if the settings would leave the gateway unprotected on a network, or
   *     its certificate cannot be used
   */
  public static CompletionStage<Gateway> start(ActorSystem<?> system, GatewaySettings settings) {
    checkSecure(settings);
    MachineActor.init(system);
    Materializer materializer = SystemMaterializer.get(system).materializer();
    ServerSettings http = ServerSettings.create(settings.http());
    Connections connections = new Connections(settings, http.getMaxConnections());
    GatewayHandler handler = new GatewayHandler(system, materializer, settings, connections);
    ServerBuilder server =
        Http.get(system)
            .newServerAt(settings.host(), settings.port())
            .withSettings(http.withSocketOptions(with(http.getSocketOptions(), connections)));
    return settings
        .tls()
        .map(files -> server.enableHttps(https(files)))
        .orElse(server)
        .bind(handler::handle)
        .thenApply(
            binding -> {
              log.info("The gateway listens on {}: {}", binding.localAddress(), settings);
              Cancellable sweeping =
                  system
                      .scheduler()
                      .scheduleWithFixedDelay(
                          Connections.SWEEP_INTERVAL,
                          Connections.SWEEP_INTERVAL,
                          connections::sweep,
                          system.executionContext());
              return new Gateway(binding, handler, sweeping, GatewayReadiness.Status.of(system));
            });
  }

  private static List<Inet.SocketOption> with(
      Iterable<Inet.SocketOption> options, Inet.SocketOption another) {
    List<Inet.SocketOption> all = new ArrayList<>();
    options.forEach(all::add);
    all.add(another);
    return all;
  }

  private static HttpsConnectionContext https(GatewaySettings.Tls files) {
    return ConnectionContext.httpsServer(Tls.server(files.certificate(), files.privateKey()));
  }

  private static void checkSecure(GatewaySettings settings) {
    InetAddress address;
    try {
      address = InetAddress.getByName(settings.host());
    } catch (UnknownHostException e) {
      throw new RemoraException("unknown host: " + settings.host(), e);
    }
    if (address.isLoopbackAddress()
        || (settings.tls().isPresent() && settings.token().isPresent())) {
      return;
    }
    throw new RemoraException(
        ("the gateway does not listen on %s, which is not a loopback address, without "
                + "%s: others could read the traffic and use its machines. Set "
                + "remora.gateway.token, remora.gateway.tls.certificate and "
                + "remora.gateway.tls.private-key (--token-file, --tls-certificate, --tls-key)")
            .formatted(
                settings.host(),
                settings.tls().isPresent()
                    ? "a token"
                    : settings.token().isPresent() ? "TLS" : "TLS and a token"));
  }

  /** The address on which the gateway listens. */
  public InetSocketAddress address() {
    return binding.localAddress();
  }

  /**
   * Registers the gateway's own meters; {@code docs/operations.md} lists them. {@link
   * io.remora.metrics.RemoraMetrics} has those of its machines.
   */
  @Override
  public void bindTo(MeterRegistry registry) {
    handler.bindTo(registry);
  }

  /**
   * Stops taking calls, ends the sessions, and closes the machines that were opened through this
   * gateway without {@code keep}. Completes when that is done.
   */
  public CompletionStage<Done> stop() {
    status.serves(false);
    return binding
        .terminate(TERMINATION_LIMIT)
        .handle(
            (terminated, failure) -> {
              sweeping.cancel();
              return Done.getInstance();
            })
        .thenCompose(done -> handler.close());
  }
}
