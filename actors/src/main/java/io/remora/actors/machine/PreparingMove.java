// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.machine.MachineEvent.OfNode;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.Migrate;
import io.remora.actors.machine.MachineProtocol.Pause;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.RemoraException;

/**
 * The provider is getting the other node of a move. The sessions work on the present one meanwhile,
 * also while its link reconnects.
 */
final class PreparingMove extends Serving {

  private final Move move;

  PreparingMove(Ready from, Move move) {
    super(
        from.machine,
        Stage.PREPARING_MOVE,
        "getting another node to move: " + move.why(),
        from.node);
    this.move = move;
  }

  /** The other node. */
  NodeAttempt nextNode() {
    return move.next();
  }

  @Override
  Behavior<Command> begin() {
    machine.limit(move.next().timeLeft());
    return this;
  }

  @Override
  Behavior<Command> onOfOtherNode(OfNode news) {
    if (news.from() != move.next()) {
      return super.onOfOtherNode(news);
    }
    RemoraException failure = move.note(news.event());
    return failure == null ? moveWhenReady() : notMoved(failure);
  }

  @Override
  Behavior<Command> sessionsChanged() {
    return moveWhenReady();
  }

  @Override
  Behavior<Command> onLinkRestored(String how) {
    return moveWhenReady();
  }

  @Override
  Behavior<Command> onSessionSaved(NodeLink.SessionSaved event) {
    Behavior<Command> unused = super.onSessionSaved(event);
    return moveWhenReady();
  }

  /**
   * Saves the sessions when the other node is connected, no session is being opened or closed, and
   * the node makes no checkpoint, which another node could not delete.
   */
  private Behavior<Command> moveWhenReady() {
    return move.isReady()
            && node.isConnected()
            && machine.sessions.isSettled()
            && !machine.sessions.isCheckpointing()
        ? machine.enter(new SavingToMove(this, move))
        : Behaviors.same();
  }

  /** Starts no checkpoint when the other node is there. */
  @Override
  void checkpoint() {
    if (!move.isReady()) {
      super.checkpoint();
    }
  }

  @Override
  Behavior<Command> onTimeUp() {
    return notMoved(
        new ProvisioningTimeoutException(
            "the other node was not ready for the move within its time limit%s"
                .formatted(move.next().latestNews())));
  }

  private Behavior<Command> notMoved(RemoraException cause) {
    move.failed(cause);
    return machine.enter(Ready.orReconnecting(this, "not moved: " + cause.getMessage()));
  }

  @Override
  Behavior<Command> onPause(Pause command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onMigrate(Migrate command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> lose(RemoraException cause) {
    return move.recover(this, cause);
  }

  @Override
  void giveUp(RemoraException cause) {
    move.abandon(cause);
  }
}
