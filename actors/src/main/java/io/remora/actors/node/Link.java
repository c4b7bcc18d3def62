// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import static java.util.Objects.requireNonNull;

import akka.actor.typed.ActorRef;
import akka.actor.typed.DispatcherSelector;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.TimerScheduler;
import akka.pattern.StatusReply;
import com.google.protobuf.ByteString;
import io.remora.actors.ActorsSetup;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.LinkLine;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.SessionPosition;
import io.remora.actors.node.NodeLink.Command;
import io.remora.actors.node.NodeLink.Event;
import io.remora.core.ProgramLibtorch;
import io.remora.provider.LaunchToken;
import io.remora.runtime.RemoraException;
import java.net.InetSocketAddress;
import java.security.SecureRandom;
import java.util.ArrayDeque;
import java.util.LinkedHashSet;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.function.Consumer;
import java.util.function.LongSupplier;
import java.util.stream.Collectors;
import scala.concurrent.ExecutionContextExecutor;

/**
 * The data that all states of a link share: the actor's context, and what outlives a connection,
 * namely the sessions and the requests that the node has not answered. Only the actor's thread may
 * use this class, except for {@link #sessions}.
 */
final class Link {

  final ActorContext<Command> context;
  final TimerScheduler<Command> timers;
  final ExecutionContextExecutor blocking;
  final LinkLine.Dialler dialler;
  final LongSupplier clock;
  final String machine;
  final InetSocketAddress address;
  final LinkSettings settings;
  final Consumer<Event> owner;
  private final boolean takesNotice;

  /** The sessions by number. The reader thread reads this map, too. */
  final ConcurrentMap<Long, LinkedSession> sessions = new ConcurrentHashMap<>();

  /** The pauses whose saved state the node is to delete. */
  final Set<String> forgetting = new LinkedHashSet<>();

  final Queue<ActorRef<StatusReply<LaunchToken>>> tokensFor = new ArrayDeque<>();

  private final LaunchToken token;
  private final ByteString id = randomId();
  private ByteString secret = ByteString.EMPTY;
  private long connections;

  Link(
      ActorContext<Command> context,
      TimerScheduler<Command> timers,
      String machine,
      InetSocketAddress address,
      LaunchToken token,
      LinkSettings settings,
      boolean takesNotice,
      Consumer<Event> owner) {
    this.context = context;
    this.timers = timers;
    this.machine = requireNonNull(machine, "machine");
    this.address = requireNonNull(address, "address");
    this.token = requireNonNull(token, "token");
    this.settings = requireNonNull(settings, "settings");
    this.takesNotice = takesNotice;
    this.owner = requireNonNull(owner, "owner");
    this.blocking = context.getSystem().dispatchers().lookup(DispatcherSelector.blocking());
    ActorsSetup setup = ActorsSetup.of(context.getSystem());
    this.dialler = setup.dialler();
    this.clock = setup.clock();
    context.setLoggerName(NodeLink.class);
    timers.startTimerWithFixedDelay(LinkEvent.ConfirmTick.INSTANCE, settings.heartbeatInterval());
  }

  /** Whether the node has welcomed the link and given it a secret for later connections. */
  boolean isUp() {
    return !secret.isEmpty();
  }

  void up(ByteString itsSecret) {
    secret = itsSecret;
  }

  /** The first frame of the next connection. */
  Hello hello() {
    Hello.Builder hello =
        Hello.newBuilder()
            .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
            .setLibtorchVersion(ProgramLibtorch.version())
            .setMachine(machine)
            .setLink(id)
            .setTakesNotice(takesNotice)
            .setTakesMemory(true)
            .setConnection(++connections);
    if (isUp()) {
      hello.setSecret(secret);
    } else {
      hello.setToken(token.value());
    }
    for (LinkedSession session : sessions.values()) {
      hello.addSessions(
          SessionPosition.newBuilder()
              .setSession(session.number())
              .setLastAcknowledgedSequence(session.mailbox.position().acknowledged()));
    }
    return hello.build();
  }

  /** Handles the end of a session; {@code cause} is null if it was closed on request. */
  void endSession(long session, RemoraException cause) {
    if (sessions.remove(session) != null) {
      owner.accept(new NodeLink.SessionEnded(session, cause));
    }
  }

  void refuseTokens(RemoraException cause) {
    tokensFor.forEach(replyTo -> replyTo.tell(StatusReply.error(cause)));
    tokensFor.clear();
  }

  /** The last acknowledged batch of each session, for messages. */
  String lastAcknowledged() {
    return sessions.values().stream()
        .map(
            session ->
                "; of session %d batch %d was acknowledged last"
                    .formatted(session.number(), session.mailbox.position().acknowledged()))
        .collect(Collectors.joining());
  }

  private static ByteString randomId() {
    byte[] bytes = new byte[16];
    new SecureRandom().nextBytes(bytes);
    return ByteString.copyFrom(bytes);
  }

  static String text(Throwable cause) {
    if (cause == null) {
      return "closed";
    }
    return cause.getMessage() == null ? cause.toString() : cause.getMessage();
  }
}
