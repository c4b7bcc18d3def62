// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.runtime.RemoraException;

/**
 * The node is lost, and another could not be started yet. After {@code remora.recovery.retry} the
 * machine asks for one again.
 */
final class WithoutNode extends MachineBehavior {

  private final Purpose.Recover recovery;

  WithoutNode(Machine machine, Purpose.Recover recovery, RemoraException notStarted) {
    super(
        machine,
        Stage.WITHOUT_NODE,
        "recovering, without another node yet: " + notStarted.getMessage(),
        null);
    this.recovery = recovery;
  }

  @Override
  Behavior<Command> begin() {
    machine.limit(machine.recovery().retry());
    return this;
  }

  @Override
  Behavior<Command> onTimeUp() {
    return recovery.next(this);
  }

  @Override
  boolean isPassing() {
    return true;
  }

  @Override
  Behavior<Command> leave() {
    machine.postponeLeaving();
    return Behaviors.same();
  }
}
