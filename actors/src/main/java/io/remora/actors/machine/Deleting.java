// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import io.remora.actors.machine.MachineEvent.SavedStateDeleted;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.runtime.RemoraException;

/** The last step to {@link Closed}: the saved state of a pause is being deleted. */
final class Deleting extends BeingClosed {

  private final RemoraException failure;

  /**
   * @param failure why the node could not be ended; null if it has ended
   */
  Deleting(Closing closing, RemoraException failure) {
    super(closing.machine, Stage.DELETING, null, closing.node, closing.closedBy);
    this.failure = failure;
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

  /** Closes the machine: everything is deleted. */
  Behavior<Command> finish() {
    if (failure == null) {
      return stop("closed by the program", closedBy);
    }
    machine.countUsage(node);
    machine.up(null);
    machine.sessions.forgetLost();
    return machine.enter(Failed.closing(machine, failure, closedBy));
  }
}
