// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.machine.MachineEvent.Recorded;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.runtime.RemoraException;

/**
 * The machine's record is being written for another member. Then the actor stops; the node and the
 * saved state stay.
 */
final class HandingOver extends Gone {

  private final MachineBehavior from;

  HandingOver(MachineBehavior from) {
    super(from.machine, Stage.HANDING_OVER, from.node);
    this.from = from;
  }

  @Override
  Behavior<Command> begin() {
    log.info("Machine {} is handed over to another member", machine.name);
    machine.standby.end();
    machine.forwardWaiting();
    machine.context.pipeToSelf(machine.writeRecord(), (done, failure) -> Recorded.INSTANCE);
    return this;
  }

  @Override
  boolean isSaved() {
    return from.isSaved();
  }

  @Override
  void giveUp(RemoraException cause) {
    from.giveUp(cause);
  }

  @Override
  Behavior<Command> onLeave() {
    return Behaviors.same();
  }

  @Override
  boolean outlivesActor() {
    return true;
  }
}
