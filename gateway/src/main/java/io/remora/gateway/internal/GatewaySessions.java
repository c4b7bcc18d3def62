// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.Done;
import akka.actor.typed.ActorSystem;
import io.grpc.Status;
import io.remora.actors.LocalSessions;
import io.remora.actors.StorageInfo;
import io.remora.actors.link.BufferPool;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.machine.MachineProtocol;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.GatewaySettings;
import io.remora.gateway.v1.Hello;
import io.remora.runtime.Batch;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Predicate;
import java.util.function.ToLongFunction;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The sessions of this gateway's programs. A session whose stream broke waits for {@code
 * remora.gateway.session-lease} and is then closed. Thread-safe.
 */
final class GatewaySessions {

  /** Version of {@code gateway.proto}. */
  static final int PROTOCOL = 1;

  private static final Logger log = LoggerFactory.getLogger(GatewaySessions.class);

  private final ActorSystem<?> system;
  private final GatewaySettings settings;
  private final LinkSettings link;
  private final GatewayMachines machines;
  private final BufferPool buffers;
  private final ConcurrentMap<Long, GatewaySession> sessions = new ConcurrentHashMap<>();
  private final AtomicInteger count = new AtomicInteger();

  GatewaySessions(ActorSystem<?> system, GatewaySettings settings, GatewayMachines machines) {
    this.system = system;
    this.settings = settings;
    this.link = LinkSettings.from(system.settings().config());
    this.machines = machines;
    this.buffers = new BufferPool(link.poolBytes());
  }

  GatewaySettings settings() {
    return settings;
  }

  /** Bytes of batches not executed that a session takes. */
  long maxInFlightBytes() {
    return link.maxInFlightBytes();
  }

  /** Memory for what comes in. */
  BufferPool buffers() {
    return buffers;
  }

  /** The session that a program requests: a new one, or an earlier one. */
  CompletionStage<GatewaySession> greeted(Hello hello) {
    if (hello.getProtocol() != PROTOCOL) {
      throw differs(
          "the gateway speaks protocol version %d, the program %d: use the same version of Remora on both sides"
              .formatted(PROTOCOL, hello.getProtocol()));
    }
    if (hello.getWireVersion() != Batch.WIRE_VERSION) {
      throw differs(
          "the gateway's machines read wire version %d, the program's native core writes %d: use the same version of Remora on both sides"
              .formatted(Batch.WIRE_VERSION, hello.getWireVersion()));
    }
    return hello.getSession() == 0 ? open(hello) : CompletableFuture.completedFuture(resume(hello));
  }

  private static RuntimeException differs(String message) {
    return GatewayErrors.refusal(
        Status.Code.FAILED_PRECONDITION, ErrorKind.ProtocolException, message);
  }

  private CompletionStage<GatewaySession> open(Hello hello) {
    if (count.incrementAndGet() > settings.maxSessions()) {
      count.decrementAndGet();
      throw GatewayErrors.refusal(
          Status.Code.RESOURCE_EXHAUSTED,
          ErrorKind.ResourceExhaustedException,
          "the gateway has %d sessions and takes no more (remora.gateway.max-sessions)"
              .formatted(settings.maxSessions()));
    }
    String name = hello.getMachine();
    return machines
        .get(name)
        .thenCompose(
            info -> {
              checkTorch(hello.getTorchVersion(), info.libtorchVersion(), name);
              machines.checkNotHeld(name);
              return LocalSessions.get(system).open(name, settings.askTimeout());
            })
        .thenApply(this::opened)
        .whenComplete(
            (session, failure) -> {
              if (failure != null) {
                count.decrementAndGet();
              }
            });
  }

  private static void checkTorch(String program, String node, String machine) {
    if (!node.isEmpty() && !majorMinor(program).equals(majorMinor(node))) {
      throw differs(
          "machine %s has libtorch %s, the program %s: install torch %s for the program, or give the machine a torch installation of version %s (remora.provider.mock.torch-home)"
              .formatted(machine, node, program, majorMinor(node), majorMinor(program)));
    }
  }

  private static String majorMinor(String version) {
    String[] parts = version.split("[.+]", 3);
    return parts.length < 2 ? version : parts[0] + "." + parts[1];
  }

  private GatewaySession opened(MachineProtocol.SessionOpened opened) {
    GatewaySession session =
        new GatewaySession(
            opened.session(),
            opened.machine(),
            link.maxInFlightBytes(),
            settings.maxUnreceivedBytes(),
            settings.sessionLease(),
            this::close);
    LocalSessions here = LocalSessions.get(system);
    try {
      session.attached(
          here.attach(opened.session(), session, true), here.directWay(opened.session()));
    } catch (RuntimeException e) {
      CompletionStage<Done> unused =
          here.close(opened.machine().name(), opened.session(), settings.askTimeout());
      throw e;
    }
    sessions.put(session.number(), session);
    machines.sessionOpened(opened.machine().name(), session);
    lease(session);
    log.info("Session {} on machine {} is open", session.number(), opened.machine().name());
    return session;
  }

  private GatewaySession resume(Hello hello) {
    GatewaySession session = sessions.get(hello.getSession());
    if (session == null || !session.hasSecret(hello.getSecret())) {
      throw GatewayErrors.refusal(
          Status.Code.NOT_FOUND,
          ErrorKind.MachineStateException,
          "there is no session %d with this secret: it was closed, or its stream was broken for longer than %d s (remora.gateway.session-lease)"
              .formatted(hello.getSession(), settings.sessionLease().toSeconds()));
    }
    return session;
  }

  /** A session's stream has ended. */
  void disconnected(GatewaySession session, GatewaySession.Stream stream) {
    if (!session.disconnect(stream)) {
      return;
    }
    if (session.hasEnded()) {
      close(session);
    } else {
      log.info(
          "The stream of session {} on machine {} is broken",
          session.number(),
          session.machine().name());
      lease(session);
    }
  }

  private void lease(GatewaySession session) {
    long streams = session.streams();
    system
        .scheduler()
        .scheduleOnce(
            settings.sessionLease(),
            () -> {
              if (!session.isConnected() && session.streams() == streams) {
                log.info(
                    "Session {} on machine {}: its program has not come back",
                    session.number(),
                    session.machine().name());
                session.end(null); // the program is gone, so no one waits for further answers
                close(session);
              }
            },
            system.executionContext());
  }

  /** Closes a session after what was sent. */
  void close(GatewaySession session) {
    if (!sessions.remove(session.number(), session)) {
      return;
    }
    String name = session.machine().name();
    CompletionStage<Done> unused =
        LocalSessions.get(system)
            .close(name, session.number(), settings.askTimeout())
            .whenComplete(
                (done, failure) -> {
                  session.end(null);
                  count.decrementAndGet();
                  machines.sessionEnded(name, session);
                  log.info("Session {} on machine {} is closed", session.number(), name);
                });
  }

  /**
   * Completes when a session's batches up to this one have been passed on, or the session passes
   * none on; at once if there is no such session.
   *
   * @param executed as in {@link GatewaySession#after}
   * @return fails with DEADLINE_EXCEEDED past the limit
   */
  CompletionStage<Done> after(long session, long batch, boolean executed, Duration limit) {
    GatewaySession found = sessions.get(session);
    return found == null
        ? CompletableFuture.completedFuture(Done.getInstance())
        : found
            .after(batch, executed)
            .orTimeout(limit.toMillis(), TimeUnit.MILLISECONDS)
            .exceptionally(
                late -> {
                  throw GatewayErrors.refusal(
                      Status.Code.DEADLINE_EXCEEDED,
                      ErrorKind.RemoraException,
                      "batch %d of session %d, which the call follows, has not come within %d s: check the program's connection to the gateway"
                          .formatted(batch, session, limit.toSeconds()));
                });
  }

  /** What is known of a storage of a session of this JVM. */
  CompletionStage<StorageInfo> storage(String machine, long session, long storage) {
    return LocalSessions.get(system).storage(machine, session, storage, settings.askTimeout());
  }

  /** Ends all sessions. */
  void closeAll() {
    for (GatewaySession session : sessions.values()) {
      session.end(null);
      close(session);
    }
  }

  /** The gateway's own figures of the sessions on a machine, by name. */
  Map<String, Double> statistics(String machine) {
    Predicate<GatewaySession> onIt = session -> session.machine().name().equals(machine);
    return Map.of(
        "streams", (double) sum(onIt, GatewaySession::streams),
        "direct", (double) sum(onIt, session -> session.isDirect() ? 1 : 0),
        "unreceived.bytes", (double) sum(onIt, GatewaySession::unreceivedBytes));
  }

  /** The number of sessions. */
  int size() {
    return sessions.size();
  }

  /** The bytes kept for all programs. */
  long unreceivedBytes() {
    return sum(session -> true, GatewaySession::unreceivedBytes);
  }

  private long sum(Predicate<GatewaySession> which, ToLongFunction<GatewaySession> figure) {
    return sessions.values().stream().filter(which).mapToLong(figure).sum();
  }
}
