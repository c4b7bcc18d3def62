// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.MachineInfo;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.Migrate;
import io.remora.actors.machine.MachineProtocol.Pause;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.function.Consumer;

/** Sessions can be opened and used. */
final class Ready extends Serving {

  private static final Duration SHORTEST_IDLE_TICK = Duration.ofMillis(20);

  private final long sinceNanos;
  private final Askers<MachineInfo> pausedBy;
  private final Runnable greeting;

  private Ready(
      MachineBehavior from,
      String reason,
      long sinceNanos,
      Askers<MachineInfo> pausedBy,
      Runnable greeting) {
    super(from.machine, Stage.READY, reason, from.node);
    this.sinceNanos = sinceNanos;
    this.pausedBy = pausedBy;
    this.greeting = greeting;
  }

  /**
   * The state after the node was connected and has the saved sessions.
   *
   * @param whoWaits the askers to answer
   */
  static Behavior<Command> opened(Opening from, NodeLink.Up up, Consumer<MachineInfo> whoWaits) {
    Machine machine = from.machine;
    machine.up(up);
    return machine.enter(
        new Ready(
            from,
            "node %s with %d device(s), libtorch %s"
                .formatted(up.nodeId(), up.devices().size(), up.libtorchVersion()),
            machine.clock.getAsLong(),
            new Askers<>(),
            () -> {
              whoWaits.accept(machine.info());
              machine.updateRecord();
            }));
  }

  /** The state after the link was re-established. */
  static Ready reconnected(Reconnecting from, String how) {
    return new Ready(from, how, from.sinceNanos, from.pausedBy, () -> {});
  }

  /** The state after a pause or a move that failed; Reconnecting if the link is broken. */
  static Running orReconnecting(Running from, String why) {
    return from.node.isConnected()
        ? new Ready(from, why, from.machine.clock.getAsLong(), new Askers<>(), () -> {})
        : new Reconnecting(from, why, from.machine.clock.getAsLong(), new Askers<>());
  }

  @Override
  Behavior<Command> begin() {
    greeting.run();
    machine.hosts.all().forEach(this::giveWay);
    keepStandby();
    machine.tickStorages();
    if (idleTimeout() != null) {
      Duration tick = idleTimeout().dividedBy(10);
      machine.tickIdle(tick.compareTo(SHORTEST_IDLE_TICK) > 0 ? tick : SHORTEST_IDLE_TICK);
    }
    if (node.notice() == null || !pausedBy.isEmpty()) {
      return pauseWhenSettled();
    }
    if (node.hasTriedToMove()) {
      machine.limit(machine.recovery().retry());
      return this;
    }
    return onNotice(node.notice());
  }

  @Override
  Behavior<Command> sessionsChanged() {
    keepStandby();
    return pauseWhenSettled();
  }

  @Override
  void keepStandby() {
    machine.standby.keep();
  }

  @Override
  void onHostJoined(ActorRef<SessionHost.Command> host) {
    keepStandby();
  }

  // Pausing -------------------------------------------------------------------------------------

  @Override
  Behavior<Command> onPause(Pause command) {
    pausedBy.add(command.replyTo());
    return pauseWhenSettled();
  }

  /**
   * Starts a pause when no session is being opened or closed, since such a session cannot be saved.
   */
  private Behavior<Command> pauseWhenSettled() {
    return pausedBy.isEmpty() || !machine.sessions.isSettled()
        ? Behaviors.same()
        : machine.enter(Saving.asked(this, pausedBy));
  }

  // Moving --------------------------------------------------------------------------------------

  @Override
  Behavior<Command> onMigrate(Migrate command) {
    if (!pausedBy.isEmpty()) {
      return machine.later(command);
    }
    Move move;
    try {
      move = Move.asked(this, command);
    } catch (RemoraException e) {
      command.refuse(e);
      return Behaviors.same();
    } catch (RuntimeException e) {
      command.refuse(
          new ProviderException(
              "machine %s cannot move: %s".formatted(machine.name, e.getMessage()), e));
      return Behaviors.same();
    }
    return machine.enter(new PreparingMove(this, move));
  }

  /**
   * Moves to another node like this one. If there is none, tries again until this one has ended.
   */
  @Override
  Behavior<Command> onNotice(NodeLink.Notice notice) {
    if (!pausedBy.isEmpty()) {
      return Behaviors.same(); // the pause ends the node
    }
    if (!node.hasTriedToMove()) {
      log.warn(
          "Machine {}: its node will end within {} ms, so it moves to another: {}",
          machine.name,
          notice.within().toMillis(),
          notice.reason());
    }
    node.triesToMove();
    return machine.enter(new PreparingMove(this, Move.noticed(this, notice)));
  }

  @Override
  Behavior<Command> onTimeUp() {
    return onNotice(node.notice());
  }

  // Idle time -----------------------------------------------------------------------------------

  private Duration idleTimeout() {
    Duration own = machine.spec().idleTimeout();
    return own != null ? own : machine.settings.idleTimeout();
  }

  @Override
  Behavior<Command> onIdleTick() {
    Duration limit = idleTimeout();
    boolean idle =
        pausedBy.isEmpty()
            && machine.sessions.isSettled()
            && machine.clock.getAsLong() - sinceNanos >= limit.toNanos()
            && machine.sessions.idle().compareTo(limit) >= 0
            && machine.hosts.areIdle(limit);
    return idle
        ? machine.enter(Saving.idle(this, "it was not used for " + limit.toMillis() + " ms"))
        : Behaviors.same();
  }

  @Override
  void giveUp(RemoraException cause) {
    pausedBy.refuse(cause);
  }

  // Link, hosts and successor -------------------------------------------------------------------

  @Override
  Behavior<Command> onLinkBroken(String cause) {
    return machine.enter(
        new Reconnecting(this, "the link is broken: " + cause, sinceNanos, pausedBy));
  }

  /**
   * Pauses a machine whose node no other process can take over. The other member starts a new node
   * from the saved state.
   */
  @Override
  Behavior<Command> leave() {
    if (node.handle().isPresent()) {
      return machine.enter(new HandingOver(this));
    }
    machine.postponeLeaving();
    return machine.enter(Saving.leaving(this, pausedBy));
  }
}
