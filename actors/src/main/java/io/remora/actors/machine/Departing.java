// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.machine.MachineProtocol.Command;

/** The closed machine's actor waits for its shard's permission to stop. */
final class Departing extends Gone {

  Departing(Machine machine) {
    super(machine, Stage.DEPARTING, null);
  }

  @Override
  Behavior<Command> onLeave() {
    return Behaviors.stopped();
  }
}
