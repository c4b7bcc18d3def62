// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.Done;
import akka.actor.typed.ActorSystem;
import akka.grpc.GrpcProtocol.GrpcProtocolWriter;
import akka.grpc.internal.GrpcProtocolNative;
import akka.grpc.internal.Identity$;
import akka.grpc.javadsl.GrpcExceptionHandler;
import akka.grpc.javadsl.ServerReflection;
import akka.grpc.javadsl.ServiceHandler;
import akka.http.javadsl.model.HttpRequest;
import akka.http.javadsl.model.HttpResponse;
import akka.http.javadsl.model.RequestEntity;
import akka.http.scaladsl.model.HttpEntity;
import akka.japi.function.Function;
import akka.stream.Materializer;
import akka.stream.javadsl.Source;
import akka.util.ByteString;
import io.micrometer.core.instrument.Gauge;
import io.micrometer.core.instrument.MeterRegistry;
import io.remora.actors.TraceParent;
import io.remora.gateway.GatewaySettings;
import io.remora.gateway.internal.health.Health;
import io.remora.gateway.internal.health.HealthHandlerFactory;
import io.remora.gateway.v1.Machines;
import io.remora.gateway.v1.MachinesHandlerFactory;
import io.remora.gateway.v1.Sessions;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/**
 * Answers the gateway's requests. Sessions have a stage of their own, for speed; Akka gRPC's
 * generated handlers answer all other calls. Thread-safe.
 */
public final class GatewayHandler {

  private static final String CONNECT = "/" + Sessions.name + "/Connect";
  private static final String OPEN = "/" + Machines.name + "/Open";
  private static final String HEALTH = "/" + Health.name + "/";

  private final ActorSystem<?> system;
  private final Materializer materializer;
  private final GatewaySettings settings;
  private final GatewayMachines machines;
  private final GatewaySessions sessions;
  private final Access access;
  private final Connections connections;

  /** The page for people; null if it is off. */
  private final Dashboard dashboard;

  private final GrpcProtocolWriter writer = GrpcProtocolNative.newWriter(Identity$.MODULE$);
  private final Function<HttpRequest, CompletionStage<HttpResponse>> generated;

  /** Creates a handler without sessions. */
  @SuppressWarnings("unchecked") // the generic array of concatOrNotFound's arguments
  public GatewayHandler(
      ActorSystem<?> system,
      Materializer materializer,
      GatewaySettings settings,
      Connections connections) {
    this.system = system;
    this.materializer = materializer;
    this.connections = connections;
    this.settings = settings;
    this.machines = new GatewayMachines(system, settings);
    this.sessions = new GatewaySessions(system, settings, machines);
    this.access = new Access(settings.token(), settings.maxCallsPerSecond());
    this.dashboard =
        settings.dashboard().enabled()
            ? new Dashboard(system, materializer, settings, machines, sessions, access, connections)
            : null;
    this.generated =
        ServiceHandler.concatOrNotFound(
            machines(null, TraceParent.NONE),
            HealthHandlerFactory.partial(
                new HealthService(),
                Health.name,
                materializer,
                classic -> GatewayErrors::trailers,
                system),
            ServerReflection.create(
                List.of(Machines.description, Sessions.description, Health.description), system));
  }

  /** Answers a request. */
  public CompletionStage<HttpResponse> handle(HttpRequest request) throws Exception {
    String path = request.getUri().path();
    if (dashboard != null && Dashboard.serves(path)) {
      return dashboard.handle(request);
    }
    // Health checks need no token: load balancers have none.
    boolean needsToken = !path.startsWith(HEALTH);
    try {
      access.check(request, needsToken);
    } catch (RuntimeException e) {
      request.discardEntityBytes(system);
      return CompletableFuture.completedFuture(
          GrpcExceptionHandler.standard(e, classic -> GatewayErrors::trailers, writer, system));
    }
    Optional<Connections.Connection> connection =
        needsToken ? connections.known(request) : Optional.empty();
    if (path.equals(CONNECT)) {
      return CompletableFuture.completedFuture(connect(request));
    }
    HttpRequest limited =
        request.withEntity(
            (RequestEntity) request.entity().withSizeLimit(settings.maxMessageBytes()));
    return path.equals(OPEN)
        ? machines(connection.orElse(null), trace(request)).apply(limited)
        : generated.apply(limited);
  }

  /**
   * Serves the calls of one connection.
   *
   * @param program the connection; null for an unknown one, or one that has ended
   */
  private Function<HttpRequest, CompletionStage<HttpResponse>> machines(
      Connections.Connection program, TraceParent trace) {
    return MachinesHandlerFactory.partial(
        new MachinesService(
            settings, system.settings().config(), machines, sessions, program, trace),
        Machines.name,
        materializer,
        classic -> GatewayErrors::trailers,
        system);
  }

  private static TraceParent trace(HttpRequest request) {
    return TraceParent.parse(
        request.getHeader(TraceParent.HEADER).map(header -> header.value()).orElse(null));
  }

  private HttpResponse connect(HttpRequest request) {
    Source<ByteString, Object> bytes = request.entity().withoutSizeLimit().getDataBytes();
    return HttpResponse.create()
        .withEntity(
            new HttpEntity.Chunked(
                writer.contentType(), bytes.via(new SessionStream(sessions)).asScala()));
  }

  /** Registers the gateway's own meters. */
  public void bindTo(MeterRegistry registry) {
    Gauge.builder("remora.gateway.connections", connections, Connections::size)
        .description("Open TCP connections, including those that have not made a call yet")
        .register(registry);
    Gauge.builder("remora.gateway.sessions", sessions, GatewaySessions::size)
        .description("Sessions of programs, connected or waiting for their program to come back")
        .register(registry);
    Gauge.builder("remora.gateway.unreceived.bytes", sessions, GatewaySessions::unreceivedBytes)
        .description("Bytes kept until programs confirm that they received them")
        .baseUnit("bytes")
        .register(registry);
  }

  /**
   * Ends the sessions and closes the machines that live only for them. Completes when that is done.
   */
  public CompletionStage<Done> close() {
    if (dashboard != null) {
      dashboard.close();
    }
    sessions.closeAll();
    return machines.closeOwned();
  }
}
