// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.pattern.StatusReply;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.ForgetFailure;
import io.remora.actors.machine.MachineProtocol.Open;
import io.remora.runtime.RemoraException;

/** The machine has failed: its sessions are lost, and its node is being ended. */
final class Failing extends NotOpen {

  private final MachineBehavior from;
  private final RemoraException cause;

  Failing(MachineBehavior from, RemoraException cause) {
    super(from.machine, Stage.FAILING, cause.getMessage(), from.node);
    this.from = from;
    this.cause = cause;
  }

  @Override
  Behavior<Command> begin() {
    machine.stopStorageTicks();
    machine.standby.end();
    from.giveUp(cause);
    machine.sessions.loseAll(cause);
    machine.endHosts(cause);
    machine.deleteRecord();
    if (node == null) {
      return failed();
    }
    node.disconnect();
    if (!node.end()) {
      return failed();
    }
    machine.limit(machine.settings.closeTimeout());
    return this;
  }

  @Override
  Behavior<Command> onEnded(Throwable failure) {
    if (failure != null) {
      log.warn("Machine {}: ending its node failed: {}", machine.name, failure.toString());
    }
    return failed();
  }

  @Override
  Behavior<Command> onTimeUp() {
    log.warn("Machine {}: {}", machine.name, Closing.timeout(machine, node).getMessage());
    return failed();
  }

  private Behavior<Command> failed() {
    return machine.enter(Failed.after(this));
  }

  @Override
  Behavior<Command> onOpen(Open command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onForgetFailure(ForgetFailure command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> close(ActorRef<StatusReply<Done>> replyTo, String why) {
    return machine.enter(Closing.failed(this, replyTo));
  }
}
