// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.Open;

/** The machine was closed, or never opened: nothing runs. */
final class Closed extends NotOpen {

  private final Askers<Done> closedBy;

  /** Never opened. */
  Closed(Machine machine) {
    this(machine, null, new Askers<>());
  }

  Closed(Machine machine, String reason, Askers<Done> closedBy) {
    super(machine, Stage.CLOSED, reason, null);
    this.closedBy = closedBy;
  }

  @Override
  Behavior<Command> begin() {
    machine.stopStorageTicks();
    closedBy.answer(StatusReply.ack());
    return this;
  }

  @Override
  Behavior<Command> onOpen(Open command) {
    return open(command);
  }

  @Override
  Behavior<Command> close(ActorRef<StatusReply<Done>> replyTo, String why) {
    replyTo.tell(StatusReply.ack());
    return machine.passivate(Behaviors.same());
  }
}
