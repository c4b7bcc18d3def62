// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import akka.pattern.StatusReply;
import io.remora.actors.MachineActor;
import io.remora.actors.MachineState;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineEvent.HostGone;
import io.remora.actors.machine.MachineEvent.IdleTick;
import io.remora.actors.machine.MachineEvent.Leave;
import io.remora.actors.machine.MachineEvent.OfNode;
import io.remora.actors.machine.MachineEvent.OwnerGone;
import io.remora.actors.machine.MachineEvent.SavedStateDeleted;
import io.remora.actors.machine.MachineEvent.StorageTick;
import io.remora.actors.machine.MachineEvent.TimeUp;
import io.remora.actors.machine.MachineEvent.Used;
import io.remora.actors.machine.MachineProtocol.Close;
import io.remora.actors.machine.MachineProtocol.CloseSession;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.ForgetFailure;
import io.remora.actors.machine.MachineProtocol.GetState;
import io.remora.actors.machine.MachineProtocol.GetStats;
import io.remora.actors.machine.MachineProtocol.GetStorage;
import io.remora.actors.machine.MachineProtocol.HostPresent;
import io.remora.actors.machine.MachineProtocol.HostRestored;
import io.remora.actors.machine.MachineProtocol.HostSaved;
import io.remora.actors.machine.MachineProtocol.HostUsed;
import io.remora.actors.machine.MachineProtocol.Migrate;
import io.remora.actors.machine.MachineProtocol.Open;
import io.remora.actors.machine.MachineProtocol.OpenSession;
import io.remora.actors.machine.MachineProtocol.Pause;
import io.remora.actors.machine.MachineProtocol.Resume;
import io.remora.actors.node.NodeLink;
import io.remora.provider.NodeExit;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A state of a machine, with its reaction to every message. By default commands are refused and
 * events are ignored. A state keeps its data in its fields. It changes to another state only
 * through {@link Machine#enter}.
 */
abstract class MachineBehavior extends AbstractBehavior<Command> {

  static final Logger log = LoggerFactory.getLogger(MachineActor.class);

  final Machine machine;
  final Stage stage;

  /** The reason for this state, for users; null to keep that of the last state. */
  final String reason;

  /** The state's node, or null. */
  final NodeAttempt node;

  MachineBehavior(Machine machine, Stage stage, String reason, NodeAttempt node) {
    super(machine.context);
    this.machine = machine;
    this.stage = stage;
    this.reason = reason;
    this.node = node;
  }

  /** The state that users see; empty to keep that of the last state. */
  Optional<MachineState> shown() {
    return stage.shown();
  }

  /** Runs when the machine enters this state. Returns the next behaviour. */
  Behavior<Command> begin() {
    return this;
  }

  /** Whether the machine's sessions are in the state store, so that it can resume. */
  boolean isSaved() {
    return false;
  }

  /** Whether the sessions are being restored for a move, which may still fail. */
  boolean isMove() {
    return false;
  }

  /** Fails the actors that wait for the result of this state. */
  void giveUp(RemoraException cause) {}

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(Open.class, this::onOpen)
        .onMessage(OpenSession.class, this::onOpenSession)
        .onMessage(CloseSession.class, this::onCloseSession)
        .onMessage(GetStorage.class, this::onGetStorage)
        .onMessage(Pause.class, this::onPause)
        .onMessage(Resume.class, this::onResume)
        .onMessage(Migrate.class, this::onMigrate)
        .onMessage(Close.class, command -> close(command.replyTo(), ""))
        .onMessage(ForgetFailure.class, this::onForgetFailure)
        .onMessage(GetState.class, this::onGetState)
        .onMessage(GetStats.class, this::onGetStats)
        .onMessage(OfNode.class, this::onOfNode)
        .onMessage(TimeUp.class, event -> onTimeUp())
        .onMessage(IdleTick.class, event -> onIdleTick())
        .onMessage(StorageTick.class, event -> onStorageTick())
        .onMessage(Used.class, event -> onUsed())
        .onMessage(SavedStateDeleted.class, event -> onSavedStateDeleted())
        .onMessage(HostPresent.class, this::onHostPresent)
        .onMessage(HostSaved.class, this::onHostSaved)
        .onMessage(HostRestored.class, this::onHostRestored)
        .onMessage(HostUsed.class, this::onHostUsed)
        .onMessage(HostGone.class, this::onHostGone)
        .onMessage(OwnerGone.class, this::onOwnerGone)
        .onMessage(Leave.class, event -> onLeave())
        .onSignal(PostStop.class, signal -> machine.stopped())
        .build();
  }

  // Commands ------------------------------------------------------------------------------------

  /**
   * Whether commands about sessions and pauses that this state does not handle wait for the next
   * state. If not, they are refused.
   */
  boolean isPassing() {
    return false;
  }

  private Behavior<Command> laterOrNever(Command command) {
    return isPassing() ? machine.later(command) : machine.refuse(command);
  }

  Behavior<Command> onOpen(Open command) {
    return machine.refuse(command);
  }

  Behavior<Command> onOpenSession(OpenSession command) {
    return laterOrNever(command);
  }

  Behavior<Command> onCloseSession(CloseSession command) {
    return laterOrNever(command);
  }

  Behavior<Command> onGetStorage(GetStorage query) {
    machine.sessions.describe(query.session(), query.storage(), query.replyTo());
    return Behaviors.same();
  }

  Behavior<Command> onPause(Pause command) {
    return laterOrNever(command);
  }

  Behavior<Command> onResume(Resume command) {
    return laterOrNever(command);
  }

  Behavior<Command> onMigrate(Migrate command) {
    return laterOrNever(command);
  }

  /**
   * Closes the machine.
   *
   * @param why text to append to "the machine was closed", for others than the asker
   */
  Behavior<Command> close(ActorRef<StatusReply<Done>> replyTo, String why) {
    return machine.enter(
        Closing.inUse(
            this,
            replyTo,
            new MachineStateException("machine " + machine.name + " was closed" + why)));
  }

  Behavior<Command> onForgetFailure(ForgetFailure command) {
    return Behaviors.same();
  }

  Behavior<Command> onGetState(GetState query) {
    query.replyTo().tell(machine.info());
    return Behaviors.same();
  }

  Behavior<Command> onGetStats(GetStats query) {
    query.replyTo().tell(machine.stats());
    return Behaviors.same();
  }

  // The node ------------------------------------------------------------------------------------

  /** The one place that tells events of another node from those of the present one. */
  private Behavior<Command> onOfNode(OfNode news) {
    if (news.event() instanceof NodeAttempt.OfLink link
        && link.event() instanceof NodeLink.StoragesChanged changed) {
      // Each batch tells it once, also one of a node that the machine has just given up.
      machine.sessions.changed(changed);
      return Behaviors.same();
    }
    if (machine.standby.on(news)) {
      return Behaviors.same();
    }
    if (news.from() != node) {
      return onOfOtherNode(news);
    }
    NodeAttempt.Event event = news.event();
    if (event instanceof NodeAttempt.OfLink link) {
      node.note(link.event());
      return onLinkEvent(link.event());
    } else if (event instanceof NodeAttempt.LinkStopped) {
      return onLinkStopped();
    } else if (event instanceof NodeAttempt.Arrived arrived) {
      return onArrived(arrived.node());
    } else if (event instanceof NodeAttempt.NotProvisioned failed) {
      return onNotProvisioned(failed.cause());
    } else if (event instanceof NodeAttempt.Exited exited) {
      return onExited(exited.exit());
    } else if (event instanceof NodeAttempt.Ended ended) {
      return onEnded(ended.failure());
    } else if (event instanceof NodeAttempt.TokenIssued issued) {
      return onTokenIssued(issued);
    } else if (event instanceof NodeAttempt.FollowingChanged) {
      return Behaviors.same(); // it is the machine's node now
    }
    throw new IllegalArgumentException("unknown news of a node: " + event);
  }

  /**
   * An event of another node than the present one: that of a move, in its states, or a former one,
   * of which only the end counts.
   */
  Behavior<Command> onOfOtherNode(OfNode news) {
    if (news.event() instanceof NodeAttempt.Ended ended
        && machine.formerNodeEnded(news.from(), ended.failure())) {
      return onFormerNodesEnded();
    }
    return Behaviors.same();
  }

  /** The last of the former nodes has ended. */
  Behavior<Command> onFormerNodesEnded() {
    return Behaviors.same();
  }

  private Behavior<Command> onLinkEvent(NodeLink.Event event) {
    if (event instanceof NodeLink.StateForgotten forgotten) {
      machine.sessions.unneeded().deleted(forgotten.name());
      return Behaviors.same();
    } else if (event instanceof NodeLink.SessionReady ready) {
      return onSessionReady(ready.session());
    } else if (event instanceof NodeLink.SessionEnded ended) {
      return onSessionEnded(ended);
    } else if (event instanceof NodeLink.SessionSaved saved) {
      return machine.sessions.checkpointed(saved) ? Behaviors.same() : onSessionSaved(saved);
    } else if (event instanceof NodeLink.Saving saving) {
      machine.sessions.saving(saving).ifPresent(machine.life::saving);
      return Behaviors.same();
    } else if (event instanceof NodeLink.SessionsLeft) {
      return onSessionsLeft();
    } else if (event instanceof NodeLink.Notice notice) {
      return onNotice(notice);
    } else if (event instanceof NodeLink.MemoryUsed) {
      return Behaviors.same(); // the node's attempt has noted it
    } else if (event instanceof NodeLink.Up up) {
      return onLinked(up);
    } else if (event instanceof NodeLink.Broken broken) {
      return onLinkBroken(broken.cause());
    } else if (event instanceof NodeLink.Restored restored) {
      machine.figures.redialled(restored.attempts());
      return onLinkRestored(
          "the link is there again after %d ms and %d attempt(s)"
              .formatted(restored.after().toMillis(), restored.attempts()));
    } else if (event instanceof NodeLink.Lost lost) {
      return onLinkLost(lost.cause());
    }
    throw new IllegalArgumentException("unknown news of a link: " + event);
  }

  Behavior<Command> onArrived(ProvisionedNode arrived) {
    return Behaviors.same();
  }

  Behavior<Command> onNotProvisioned(Throwable cause) {
    return Behaviors.same();
  }

  Behavior<Command> onExited(NodeExit exit) {
    return Behaviors.same();
  }

  /** The provider has ended the node; {@code failure} is the reason why it could not, or null. */
  Behavior<Command> onEnded(Throwable failure) {
    return Behaviors.same();
  }

  Behavior<Command> onLinked(NodeLink.Up up) {
    return Behaviors.same();
  }

  Behavior<Command> onLinkBroken(String cause) {
    return Behaviors.same();
  }

  Behavior<Command> onLinkRestored(String how) {
    return Behaviors.same();
  }

  Behavior<Command> onLinkLost(RemoraException cause) {
    return Behaviors.same();
  }

  Behavior<Command> onLinkStopped() {
    return Behaviors.same();
  }

  Behavior<Command> onSessionReady(long session) {
    return Behaviors.same();
  }

  Behavior<Command> onSessionEnded(NodeLink.SessionEnded ended) {
    return Behaviors.same();
  }

  /**
   * The node was told to end, and waits for the machine to move, see {@link NodeLink.Notice}. A
   * ready machine begins to move; one that is not ready does so when it is.
   */
  Behavior<Command> onNotice(NodeLink.Notice notice) {
    return Behaviors.same();
  }

  /** The node's link no longer uses the mailboxes of the sessions. */
  Behavior<Command> onSessionsLeft() {
    return Behaviors.same();
  }

  /** Deletes the state that was saved for a cancelled pause. */
  Behavior<Command> onSessionSaved(NodeLink.SessionSaved event) {
    forgetUnlessOfThisPause(event.pause());
    return Behaviors.same();
  }

  final void forgetUnlessOfThisPause(String pause) {
    if (node != null && !machine.saved.has(pause)) {
      machine.sessions.unneeded().deleteLate(pause, node::tellLink);
    }
  }

  /** Handles the end of a session. */
  final void end(NodeLink.SessionEnded ended) {
    if (ended.cause() != null && machine.sessions.has(ended.session())) {
      log.warn(
          "Machine {}: session {} ended: {}",
          machine.name,
          ended.session(),
          ended.cause().getMessage());
    }
    machine.sessions.end(ended.session(), ended.cause());
  }

  // Time ----------------------------------------------------------------------------------------

  /** The state's time limit has passed, see {@link Machine#limit}. */
  Behavior<Command> onTimeUp() {
    return Behaviors.same();
  }

  Behavior<Command> onIdleTick() {
    return Behaviors.same();
  }

  private Behavior<Command> onStorageTick() {
    machine.sessions.tick();
    checkpoint();
    keepStandby();
    return Behaviors.same();
  }

  /** Starts the checkpoints that are due, in states in which the sessions work. */
  void checkpoint() {}

  /** Sees to it that there is a standby, in states in which it can be used. */
  void keepStandby() {}

  // Hosts ---------------------------------------------------------------------------------------

  Behavior<Command> onHostPresent(HostPresent event) {
    if (!machine.hosts.has(event.host())) {
      machine.join(event.host());
      onHostJoined(event.host());
    }
    machine.hosts.present(event.host(), event.linked(), event.idleMillis());
    giveWay(event.host());
    return Behaviors.same();
  }

  /** A new host has joined. */
  void onHostJoined(ActorRef<SessionHost.Command> host) {}

  /**
   * Sends the way to the node to a host that is not linked, in states in which hosts should be
   * linked.
   */
  void giveWay(ActorRef<SessionHost.Command> host) {}

  private Behavior<Command> onTokenIssued(NodeAttempt.TokenIssued issued) {
    if (issued.token() == null) {
      log.warn(
          "Machine {}: its node gave no token for sessions on {}: {}",
          machine.name,
          issued.host().path().address(),
          issued.failure().getMessage());
    } else {
      issued.host().tell(machine.way(node, issued.token(), isMove()));
    }
    return Behaviors.same();
  }

  /** Deletes the state that a host has saved for a cancelled pause. */
  Behavior<Command> onHostSaved(HostSaved event) {
    forgetUnlessOfThisPause(event.pause());
    return Behaviors.same();
  }

  Behavior<Command> onHostRestored(HostRestored event) {
    return Behaviors.same();
  }

  Behavior<Command> onHostUsed(HostUsed event) {
    return Behaviors.same();
  }

  private Behavior<Command> onHostGone(HostGone event) {
    return machine.part(event.host()) ? onHostParted() : Behaviors.same();
  }

  /** A host that had joined is gone. */
  Behavior<Command> onHostParted() {
    return Behaviors.same();
  }

  // Only in some states -------------------------------------------------------------------------

  Behavior<Command> onUsed() {
    return Behaviors.same();
  }

  Behavior<Command> onSavedStateDeleted() {
    return Behaviors.same();
  }

  // The end -------------------------------------------------------------------------------------

  private Behavior<Command> onOwnerGone(OwnerGone event) {
    if (!machine.losesOwner(event.owner())) {
      return Behaviors.same();
    }
    log.warn("Machine {} is closed: the program that opened it is gone", machine.name);
    return close(machine.system.ignoreRef(), ": the program that opened it is gone");
  }

  /** Fails the machine: it and all its sessions are lost. */
  final Behavior<Command> fail(RemoraException cause) {
    return machine.enter(new Failing(this, cause));
  }

  /**
   * The shard moves to another member. A machine that others use is handed over; any other machine
   * ends.
   */
  Behavior<Command> onLeave() {
    return machine.isWantedElsewhere() ? leave() : Behaviors.stopped();
  }

  /** Hands over a machine that other members need, or makes the next state do so. */
  Behavior<Command> leave() {
    return machine.postponeLeaving();
  }

  /** The actor has stopped in this state. */
  final void onStopped() {
    RemoraException cause =
        new MachineStateException("machine " + machine.name + " was ended: its actor was stopped");
    giveUp(cause);
    machine.refuseWaiting(cause);
    machine.sessions.endAll(cause);
    machine.figures.close();
    machine.standby.drop();
    if (!outlivesActor()) {
      machine.endHosts(cause);
      if (node != null) {
        node.drop();
      }
      if (!machine.saved.isEmpty()) {
        CompletableFuture<Void> unused = machine.saved.delete();
      }
      if (machine.up() != null) {
        machine.deleteRecord();
      }
    }
  }

  /**
   * Whether the node and the saved state stay when the actor stops. An actor that stops without a
   * request to leave was on a member that the cluster considers dead, so another member has the
   * node now.
   */
  boolean outlivesActor() {
    return machine.isWantedElsewhere()
        && node != null
        && node.isRunning()
        && node.handle().isPresent();
  }
}
