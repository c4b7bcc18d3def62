// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.HostUsed;

/**
 * The machine is paused, and its last resume has failed. Waiting work, here or at hosts, resumes it
 * only after {@code remora.machine.resume-retry}; a command does so at once.
 */
final class NotResumed extends Paused {

  NotResumed(Machine machine, String reason, Runnable answers) {
    super(machine, Stage.NOT_RESUMED, reason, answers);
  }

  @Override
  Behavior<Command> begin() {
    super.begin();
    machine.limit(machine.settings.resumeRetry());
    return this;
  }

  /** Ignores the report: the paused machine asks the hosts again. */
  @Override
  Behavior<Command> onHostUsed(HostUsed event) {
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onTimeUp() {
    awaitUse();
    return machine.enter(new Paused(machine, Stage.PAUSED, null, () -> {}));
  }
}
