// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.machine.MachineEvent.SavedStateDeleted;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.Open;
import io.remora.runtime.RemoraException;

/** The last step to {@link Closed}: what a pause has saved is deleted. */
final class Deleting extends NotOpen {

  private final RemoraException failure;
  private final Askers<Done> closedBy;

  /**
   * @param failure why the node could not be ended; null: it has ended
   */
  Deleting(Closing closing, RemoraException failure, Askers<Done> closedBy) {
    super(closing.machine, Stage.DELETING, null, closing.node);
    this.failure = failure;
    this.closedBy = closedBy;
  }

  @Override
  Behavior<Command> begin() {
    machine.context.pipeToSelf(machine.saved.delete(), (done, never) -> SavedStateDeleted.INSTANCE);
    return this;
  }

  @Override
  Behavior<Command> onSavedStateDeleted() {
    return finish();
  }

  /** There is nothing more to delete. */
  Behavior<Command> finish() {
    if (failure == null) {
      return stop("closed by the program", closedBy);
    }
    machine.countUsage(node);
    machine.up(null);
    machine.sessions.forgetLost();
    return machine.enter(Failed.closing(machine, failure, closedBy));
  }

  @Override
  void giveUp(RemoraException why) {
    closedBy.refuse(why);
  }

  @Override
  Behavior<Command> onOpen(Open command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> close(ActorRef<StatusReply<Done>> replyTo, String why) {
    closedBy.add(replyTo);
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onLeave() {
    return machine.postponeLeaving();
  }
}
