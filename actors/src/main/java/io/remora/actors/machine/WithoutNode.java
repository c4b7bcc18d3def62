// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.machine.MachineProtocol.CloseSession;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.OpenSession;
import io.remora.actors.machine.MachineProtocol.Pause;
import io.remora.actors.machine.MachineProtocol.Resume;
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
  Behavior<Command> onOpenSession(OpenSession command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onCloseSession(CloseSession command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onPause(Pause command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onResume(Resume command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> leave() {
    machine.postponeLeaving();
    return Behaviors.same();
  }
}
