// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.Open;
import io.remora.runtime.RemoraException;

/** The states that lead to {@link Closed}. The actors that close the machine get the result. */
abstract class BeingClosed extends NotOpen {

  final Askers<Done> closedBy;

  BeingClosed(
      Machine machine, Stage stage, String reason, NodeAttempt node, Askers<Done> closedBy) {
    super(machine, stage, reason, node);
    this.closedBy = closedBy;
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

  /** Leaves after the close was answered. */
  @Override
  Behavior<Command> onLeave() {
    return machine.postponeLeaving();
  }
}
