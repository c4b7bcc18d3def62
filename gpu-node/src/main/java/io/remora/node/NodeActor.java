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
import akka.pattern.StatusReply;
import io.remora.actors.ClusterNode;
import io.remora.actors.DeviceInfo;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SavedState;
import io.remora.runtime.BatchExecutor;
import io.remora.runtime.ResourceExhaustedException;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;

/**
 * The node's main actor. It knows its owners' links and connections, and has a {@link SessionActor}
 * per session. It frees the sessions of links that end or have had no connection for {@code
 * remora.node.session-lease}. It ends when it has had no owner for {@code
 * remora.node.orphan-timeout}.
 *
 * <p>In a cluster it is a {@link ClusterNode}, which serves one machine after the other. Without an
 * owner such a node does not end but is free again. Bulk data does not pass through this actor.
 */
public final class NodeActor extends AbstractBehavior<NodeActor.Command> {

  /** The commands of a node. */
  public sealed interface Command
      permits FromCluster,
          Listening,
          OwnerArrived,
          OwnerGone,
          LinkEnded,
          LeaseOver,
          OpenSession,
          SessionEnded,
          Orphaned,
          End {}

  /** Makes what executes the batches of one session; see {@link BatchExecutor#create}. */
  @FunctionalInterface
  interface Executors {
    BatchExecutor create(List<String> devices, List<String> deniedOperators);
  }

  private record FromCluster(ClusterNode.Command command) implements Command {}

  /** The link port is open. */
  record Listening(
      LinkServer server,
      List<String> executorDevices,
      List<DeviceInfo> devices,
      String libtorchVersion,
      int computeThreads)
      implements Command {}

  /** A connection has passed its handshake. */
  record OwnerArrived(OwnerConnection connection, OwnerLink link) implements Command {}

  /** Such a connection has ended. */
  record OwnerGone(OwnerConnection connection, OwnerLink link) implements Command {}

  /** A machine has said goodbye. */
  record LinkEnded(OwnerLink link) implements Command {}

  /** An owner opens a session: a new one, or a saved one if {@code restoredFrom} is not null. */
  record OpenSession(
      OwnerLink link,
      long session,
      SessionInbox inbox,
      SessionOutbox outbox,
      SavedState restoredFrom)
      implements Command {}

  /** Ends the node. */
  record End(String reason) implements Command {}

  /** The node has had no owner for too long. */
  private record Orphaned(String reason) implements Command {}

  private record SessionEnded(SessionKey key) implements Command {}

  private record SessionKey(OwnerLink link, long session) {}

  private record LeaseOver(OwnerLink link) implements Command {}

  private static final Object ORPHAN_TIMER = "orphan";

  private final NodeSettings settings;
  private final Executors executors;
  private final TimerScheduler<Command> timers;
  private final Runnable onEnding;
  private final Set<OwnerConnection> owners = new HashSet<>();
  private final Set<SessionKey> sessions = new HashSet<>();
  private final ActorRef<ClusterNode.Command> clusterNode;
  private Listening listening;
  private LinkServer server;
  private PythonEnvironment python;
  private final NodeModels models;
  // The machine that the node serves in a cluster; empty if the node is free.
  private String machine = "";
  private String opening = "";

  /**
   * Creates a node that has no link port yet.
   *
   * @param settings the configuration
   * @param executors makes the executors of sessions
   * @param inCluster whether it serves the machines of a cluster
   * @param onEnding runs when the node begins to end, even if operators still run
   */
  static Behavior<Command> create(
      NodeSettings settings, Executors executors, boolean inCluster, Runnable onEnding) {
    return Behaviors.setup(
        context ->
            Behaviors.withTimers(
                timers ->
                    new NodeActor(context, timers, settings, executors, inCluster, onEnding)));
  }

  private NodeActor(
      ActorContext<Command> context,
      TimerScheduler<Command> timers,
      NodeSettings settings,
      Executors executors,
      boolean inCluster,
      Runnable onEnding) {
    super(context);
    context.setLoggerName(NodeActor.class);
    this.clusterNode =
        inCluster ? context.messageAdapter(ClusterNode.Command.class, FromCluster::new) : null;
    this.timers = timers;
    this.settings = settings;
    this.executors = executors;
    this.onEnding = onEnding;
    this.models = new NodeModels(settings.models(), context.getSystem().settings().config());
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
        .onMessage(FromCluster.class, this::onFromCluster)
        .onMessage(Listening.class, this::onListening)
        .onMessage(Orphaned.class, this::onOrphaned)
        .onMessage(End.class, this::onEnd)
        .onSignal(PostStop.class, this::onPostStop)
        .build();
  }

  private Behavior<Command> onListening(Listening message) {
    listening = message;
    server = listening.server;
    if (clusterNode != null) {
      getContext()
          .getSystem()
          .receptionist()
          .tell(Receptionist.register(ClusterNode.SERVICE_KEY, clusterNode));
    }
    if (settings.remoteFunctions()) {
      python =
          new PythonEnvironment(
              settings.python(),
              settings.pythonStartTimeout(),
              settings.pythonPackages(),
              settings.pythonRequirements(),
              listening.computeThreads,
              settings.pythonHubToken(),
              System.getenv());
    }
    getContext()
        .getSystem()
        .dispatchers()
        .lookup(DispatcherSelector.blocking())
        .execute(models::deleteExpired);
    startOrphanTimer("no owner has connected");
    NodeReadiness.Status.of(getContext().getSystem()).ready();
    return this;
  }

  private Behavior<Command> onOwnerArrived(OwnerArrived arrived) {
    if (owners.add(arrived.connection)) {
      NodeFigures.PROCESS.ownerArrived();
    }
    timers.cancel(ORPHAN_TIMER);
    timers.cancel(arrived.link);
    return this;
  }

  private Behavior<Command> onOwnerGone(OwnerGone gone) {
    if (owners.remove(gone.connection)) {
      NodeFigures.PROCESS.ownerGone();
      if (owners.isEmpty()) {
        startOrphanTimer("the owner's connection is gone and it has not come back");
      }
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
              "Freeing the sessions of {}: it has had no connection for {} "
                  + "(remora.node.session-lease)",
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
    ActorRef<SessionActor.Command> actor =
        getContext()
            .spawnAnonymous(
                SessionActor.create(
                    open.link.name(),
                    open.session,
                    open.inbox,
                    open.outbox,
                    () -> executors.create(listening.executorDevices, settings.deniedOperators()),
                    open.restoredFrom,
                    Optional.ofNullable(python),
                    models,
                    server.writes()),
                DispatcherSelector.fromConfig(NodeSettings.SESSION_DISPATCHER));
    sessions.add(key);
    getContext().watchWith(actor, new SessionEnded(key));
    return this;
  }

  private Behavior<Command> onSessionEnded(SessionEnded ended) {
    sessions.remove(ended.key);
    return this;
  }

  // The cluster ---------------------------------------------------------------------------------

  private Behavior<Command> onFromCluster(FromCluster message) {
    if (message.command instanceof ClusterNode.Describe question) {
      question.replyTo().tell(description());
    } else if (message.command instanceof ClusterNode.Reserve wanted) {
      wanted.replyTo().tell(reserve(wanted));
    } else if (message.command instanceof ClusterNode.Release given
        && isHeldBy(given.machine(), given.opening())) {
      free("machine " + machine + " has given it back");
    }
    return this;
  }

  private ClusterNode.Description description() {
    return new ClusterNode.Description(
        clusterNode,
        server == null ? "" : LinkServer.text(server.address()),
        listening.libtorchVersion,
        listening.devices,
        machine.isEmpty() && !owners.isEmpty() ? owners.iterator().next().name() : machine,
        opening,
        owners.size(),
        sessions.size());
  }

  private boolean isHeldBy(String byMachine, String byOpening) {
    return machine.equals(byMachine) && opening.equals(byOpening);
  }

  private StatusReply<ClusterNode.Reservation> reserve(ClusterNode.Reserve wanted) {
    ClusterNode.Description now = description();
    if (!now.isFree() && !now.machine().equals(wanted.machine())) {
      return StatusReply.error(
          new ResourceExhaustedException(
              "the node %s serves machine %s".formatted(now.summary(), now.machine())));
    }
    if (!isHeldBy(wanted.machine(), wanted.opening())) {
      if (!machine.isEmpty()) {
        free("machine " + machine + " starts again");
      }
      machine = wanted.machine();
      opening = wanted.opening();
      getContext().getLog().info("The node serves machine {}", machine);
    }
    if (owners.isEmpty()) {
      startOrphanTimer("machine " + machine + " has not connected");
    }
    return StatusReply.success(
        new ClusterNode.Reservation(now.address(), server.issueToken().value()));
  }

  private void free(String why) {
    getContext().getLog().info("The node is free: {}", why);
    machine = "";
    opening = "";
    timers.cancel(ORPHAN_TIMER);
    server.endLinks(why);
  }

  // The end -------------------------------------------------------------------------------------

  private Behavior<Command> onOrphaned(Orphaned orphaned) {
    if (clusterNode == null) {
      return onEnd(new End(orphaned.reason));
    }
    if (!machine.isEmpty()) {
      free(orphaned.reason);
    }
    return this;
  }

  private Behavior<Command> onEnd(End end) {
    getContext().getLog().info("The node ends: {}", end.reason);
    beginToEnd(end.reason);
    return Behaviors.stopped();
  }

  /** Runs after the sessions have stopped, which a long operator may delay. */
  private Behavior<Command> onPostStop(PostStop signal) {
    beginToEnd("it was told to");
    owners.forEach(owner -> NodeFigures.PROCESS.ownerGone());
    owners.clear();
    if (python != null) {
      python.close();
    }
    return this;
  }

  private void beginToEnd(String reason) {
    NodeReadiness.Status.of(getContext().getSystem()).ending(reason);
    if (server != null) {
      server.close();
      server = null;
    }
    onEnding.run();
  }

  private void startOrphanTimer(String what) {
    timers.startSingleTimer(
        ORPHAN_TIMER,
        new Orphaned(
            "%s for %s (remora.node.orphan-timeout)".formatted(what, settings.orphanTimeout())),
        settings.orphanTimeout());
  }
}
