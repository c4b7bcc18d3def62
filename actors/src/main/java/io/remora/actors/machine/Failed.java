// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.ForgetFailure;
import io.remora.actors.machine.MachineProtocol.Open;
import io.remora.runtime.RemoraException;

/** The machine has failed and nothing runs. The reason has the cause. */
final class Failed extends NotOpen {

  private enum Until {
    /** Until it is closed: it was ready, so its user must notice the failure. */
    CLOSED,
    /** For a limited time: it was never ready, so no user would close it. */
    FORGOTTEN,
    /** Until it is opened again: it was closed, but its node may still run. */
    OPENED
  }

  private final Until until;
  private final Askers<Done> closedBy;
  private final RemoraException notClosed;

  private Failed(
      Machine machine,
      String reason,
      NodeAttempt node,
      Until until,
      Askers<Done> closedBy,
      RemoraException notClosed) {
    super(machine, Stage.FAILED, reason, node);
    this.until = until;
    this.closedBy = closedBy;
    this.notClosed = notClosed;
  }

  /** The state after the node has ended. */
  static Failed after(Failing failing) {
    return new Failed(
        failing.machine,
        null,
        failing.node,
        failing.machine.up() == null ? Until.FORGOTTEN : Until.CLOSED,
        new Askers<>(),
        null);
  }

  /** The state after a close that failed. */
  static Failed closing(Machine machine, RemoraException cause, Askers<Done> closedBy) {
    return new Failed(machine, cause.getMessage(), null, Until.OPENED, closedBy, cause);
  }

  @Override
  Behavior<Command> begin() {
    closedBy.refuse(notClosed);
    if (until == Until.FORGOTTEN) {
      machine.limit(machine.settings.forgetFailedAfter());
    }
    return this;
  }

  @Override
  Behavior<Command> onForgetFailure(ForgetFailure command) {
    return until == Until.CLOSED ? Behaviors.same() : onTimeUp();
  }

  @Override
  Behavior<Command> onTimeUp() {
    return stop("not opened: " + machine.reason(), new Askers<>());
  }

  @Override
  Behavior<Command> onOpen(Open command) {
    return until == Until.CLOSED ? machine.refuse(command) : open(command);
  }

  @Override
  Behavior<Command> close(ActorRef<StatusReply<Done>> replyTo, String why) {
    return machine.enter(Closing.failed(this, replyTo));
  }
}
