// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineEvent.OfNode;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.Pause;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;

/** The other node of a move is connected, and the sessions are being saved for it. */
final class SavingToMove extends Saving {

  private final Move move;

  // The node's link was told to give up the sessions.
  private boolean allSaved;

  // Why the other node can no longer be used.
  private RemoraException nextLost;

  SavingToMove(PreparingMove from, Move move) {
    super(
        from,
        Stage.SAVING_TO_MOVE,
        "moving to " + move.next().description(),
        Why.MOVING,
        new Askers<>());
    this.move = move;
  }

  @Override
  Behavior<Command> begin() {
    move.holds();
    return super.begin();
  }

  /** Frees the sessions' mailboxes for the link to the other node. */
  @Override
  Behavior<Command> saved() {
    if (!allSaved) {
      allSaved = true;
      machine.hosts.tell(new SessionHost.Offline());
      node.tellLink(NodeLink.LeaveSessions.INSTANCE);
    }
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onSessionsLeft() {
    return restore();
  }

  private Behavior<Command> restore() {
    return nextLost == null ? move.restore() : move.failed(this, nextLost);
  }

  @Override
  Behavior<Command> onOfOtherNode(OfNode news) {
    if (news.from() != move.next()) {
      return super.onOfOtherNode(news);
    }
    RemoraException failure = move.note(news.event());
    if (failure == null) {
      return Behaviors.same();
    }
    if (!allSaved) {
      return notMoved(failure);
    }
    nextLost = failure;
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onTimeUp() {
    return allSaved ? Behaviors.same() : super.onTimeUp();
  }

  @Override
  Behavior<Command> notPaused(String cause) {
    return notMoved(new MachineStateException(cause));
  }

  private Behavior<Command> notMoved(RemoraException cause) {
    move.failed(cause);
    return goOn("not moved: " + cause.getMessage());
  }

  @Override
  Behavior<Command> onPause(Pause command) {
    return machine.later(command);
  }

  /** Continues with the other node if everything is saved. */
  @Override
  Behavior<Command> lose(RemoraException cause) {
    if (!allSaved) {
      return move.recover(this, cause);
    }
    move.lost(cause);
    return restore();
  }

  @Override
  void giveUp(RemoraException cause) {
    move.abandon(cause);
  }
}
