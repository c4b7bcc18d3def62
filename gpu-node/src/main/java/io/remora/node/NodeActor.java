// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.DispatcherSelector;
import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import akka.actor.typed.javadsl.TimerScheduler;
import akka.actor.typed.receptionist.Receptionist;
import akka.actor.typed.receptionist.ServiceKey;
import io.remora.actors.RemoraMessage;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SavedState;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;

/**
 * The node itself: knows its owners' links and connections, owns a {@link SessionActor} per
 * session, frees the sessions of links that end or have no connection for {@code
 * remora.node.session-lease}, and ends when it has had no owner for {@code
 * remora.node.orphan-timeout}.
 *
 * <p>In a cluster it is found through the Receptionist under {@link #SERVICE_KEY}. Bulk data does
 * not pass through here.
 */
public final class NodeActor extends AbstractBehavior<NodeActor.Command> {

  /** Where nodes of a cluster are found. */
  public static final ServiceKey<Command> SERVICE_KEY =
      ServiceKey.create(Command.class, "remora-node");

  /** What a node is told. */
  public sealed interface Command
      permits Describe,
          Listening,
          OwnerArrived,
          OwnerGone,
          LinkEnded,
          LeaseOver,
          OpenSession,
          SessionEnded,
          End {}

  /**
   * Asks what the node is doing.
   *
   * @param replyTo gets the answer
   */
  public record Describe(ActorRef<Description> replyTo) implements Command, RemoraMessage {}

  /**
   * What a node is doing.
   *
   * @param link host and port that machines dial
   * @param connections authenticated connections of owners
   * @param sessions open sessions
   */
  public record Description(String link, int connections, int sessions) implements RemoraMessage {}

  /** The link port is open. */
  record Listening(LinkServer server, List<String> devices, int computeThreads)
      implements Command {}

  /** A connection has passed its handshake. */
  record OwnerArrived(OwnerConnection connection, OwnerLink link) implements Command {}

  /** Such a connection has ended. */
  record OwnerGone(OwnerConnection connection, OwnerLink link) implements Command {}

  /** A machine has said goodbye. */
  record LinkEnded(OwnerLink link) implements Command {}

  /** An owner wants a session: a new one, or (not null) one that was saved. */
  record OpenSession(
      OwnerLink link,
      long session,
      SessionInbox inbox,
      SessionOutbox outbox,
      SavedState restoredFrom)
      implements Command {}

  /** The node is to end. */
  record End(String reason) implements Command {}

  private record SessionEnded(SessionKey key) implements Command {}

  private record SessionKey(OwnerLink link, long session) {}

  private record LeaseOver(OwnerLink link) implements Command {}

  private static final Object ORPHAN_TIMER = "orphan";

  private final NodeSettings settings;
  private final TimerScheduler<Command> timers;
  private final Runnable onEnding;
  private final Set<OwnerConnection> owners = new HashSet<>();
  private final Set<SessionKey> sessions = new HashSet<>();
  private LinkServer server;
  private List<String> devices = List.of();
  private PythonEnvironment python;

  /**
   * A node without a link port yet.
   *
   * @param settings the configuration
   * @param registered whether to register with the Receptionist
   * @param onEnding runs when the node begins to end, however long its operators still run
   */
  static Behavior<Command> create(NodeSettings settings, boolean registered, Runnable onEnding) {
    return Behaviors.setup(
        context ->
            Behaviors.withTimers(
                timers -> {
                  if (registered) {
                    context
                        .getSystem()
                        .receptionist()
                        .tell(Receptionist.register(SERVICE_KEY, context.getSelf()));
                  }
                  return new NodeActor(context, timers, settings, onEnding);
                }));
  }

  private NodeActor(
      ActorContext<Command> context,
      TimerScheduler<Command> timers,
      NodeSettings settings,
      Runnable onEnding) {
    super(context);
    context.setLoggerName(NodeActor.class);
    this.timers = timers;
    this.settings = settings;
    this.onEnding = onEnding;
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(OpenSession.class, this::onOpenSession)
        .onMessage(SessionEnded.class, this::onSessionEnded)
        .onMessage(OwnerArrived.class, this::onOwnerArrived)
        .onMessage(OwnerGone.class, this::onOwnerGone)
        .onMessage(LinkEnded.class, this::onLinkEnded)
        .onMessage(LeaseOver.class, this::onLeaseOver)
        .onMessage(Describe.class, this::onDescribe)
        .onMessage(Listening.class, this::onListening)
        .onMessage(End.class, this::onEnd)
        .onSignal(PostStop.class, this::onPostStop)
        .build();
  }

  private Behavior<Command> onListening(Listening listening) {
    server = listening.server;
    devices = listening.devices;
    if (settings.remoteFunctions()) {
      python =
          new PythonEnvironment(
              settings.python(),
              settings.pythonStartTimeout(),
              settings.pythonPackages(),
              listening.computeThreads);
    }
    startOrphanTimer("no owner has connected");
    return this;
  }

  private Behavior<Command> onOwnerArrived(OwnerArrived arrived) {
    owners.add(arrived.connection);
    timers.cancel(ORPHAN_TIMER);
    timers.cancel(arrived.link);
    return this;
  }

  private Behavior<Command> onOwnerGone(OwnerGone gone) {
    if (owners.remove(gone.connection) && owners.isEmpty()) {
      startOrphanTimer("the owner's connection is gone and it has not come back");
    }
    if (!gone.link.isConnected()) {
      timers.startSingleTimer(gone.link, new LeaseOver(gone.link), settings.sessionLease());
    }
    return this;
  }

  private Behavior<Command> onLinkEnded(LinkEnded ended) {
    timers.cancel(ended.link);
    return this;
  }

  private Behavior<Command> onLeaseOver(LeaseOver over) {
    if (over.link.endIfDisconnected()) {
      getContext()
          .getLog()
          .info(
              "What is left of {} is freed: it has had no connection for {} (remora.node.session-lease)",
              over.link.name(),
              settings.sessionLease());
      if (server != null) {
        server.forget(over.link);
      }
    }
    return this;
  }

  private Behavior<Command> onOpenSession(OpenSession open) {
    if (sessions.size() >= settings.maxSessions()) {
      open.outbox.end(
          FrameType.REFUSED,
          Refused.newBuilder()
              .setReason(Reason.REASON_BUSY)
              .setMessage(
                  "the node has %d sessions already, its limit (remora.node.max-sessions)"
                      .formatted(sessions.size()))
              .build());
      open.inbox.abandon();
      return this;
    }
    SessionKey key = new SessionKey(open.link, open.session);
    String name = open.link.name() + "/" + open.session;
    ActorRef<SessionActor.Command> actor =
        getContext()
            .spawnAnonymous(
                SessionActor.create(
                    name,
                    open.session,
                    open.inbox,
                    open.outbox,
                    devices,
                    settings.deniedOperators(),
                    open.restoredFrom,
                    Optional.ofNullable(python)),
                DispatcherSelector.fromConfig(NodeSettings.SESSION_DISPATCHER));
    sessions.add(key);
    getContext().watchWith(actor, new SessionEnded(key));
    return this;
  }

  private Behavior<Command> onSessionEnded(SessionEnded ended) {
    sessions.remove(ended.key);
    return this;
  }

  private Behavior<Command> onDescribe(Describe question) {
    question.replyTo.tell(
        new Description(
            server == null ? "" : LinkServer.text(server.address()),
            owners.size(),
            sessions.size()));
    return this;
  }

  private Behavior<Command> onEnd(End end) {
    getContext().getLog().info("The node ends: {}", end.reason);
    beginToEnd();
    return Behaviors.stopped();
  }

  /** After the sessions have stopped, which a long operator may hold up. */
  private Behavior<Command> onPostStop(PostStop signal) {
    beginToEnd();
    if (python != null) {
      python.close();
    }
    return this;
  }

  private void beginToEnd() {
    if (server != null) {
      server.close();
      server = null;
    }
    onEnding.run();
  }

  private void startOrphanTimer(String what) {
    timers.startSingleTimer(
        ORPHAN_TIMER,
        new End("%s for %s (remora.node.orphan-timeout)".formatted(what, settings.orphanTimeout())),
        settings.orphanTimeout());
  }
}
