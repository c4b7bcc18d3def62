// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.machine.MachineEvent.OfNode;
import io.remora.actors.machine.MachineProtocol.CloseSession;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.Migrate;
import io.remora.actors.machine.MachineProtocol.OpenSession;
import io.remora.actors.machine.MachineProtocol.Pause;
import io.remora.actors.machine.MachineProtocol.Resume;
import io.remora.provider.NodeExit;
import io.remora.runtime.RemoraException;

/**
 * The link is permanently lost. The provider has {@code remora.machine.exit-report-wait} to report
 * why the node ended, which is a better cause for the failure.
 */
final class Losing extends MachineBehavior {

  private final WithNode interrupted;
  private final RemoraException cause;

  Losing(WithNode interrupted, RemoraException cause) {
    super(interrupted.machine, Stage.LOSING, null, interrupted.node);
    this.interrupted = interrupted;
    this.cause = cause;
  }

  @Override
  Behavior<Command> begin() {
    machine.limit(machine.settings.exitReportWait());
    return this;
  }

  /** Keeps the news of a move's other node for the next state. */
  @Override
  Behavior<Command> onOfOtherNode(OfNode news) {
    return news.event() instanceof NodeAttempt.Ended
        ? super.onOfOtherNode(news)
        : machine.later(news);
  }

  @Override
  Behavior<Command> onMigrate(Migrate command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onTimeUp() {
    return interrupted.lose(cause);
  }

  @Override
  Behavior<Command> onExited(NodeExit exit) {
    return interrupted.lose(interrupted.exited(exit, cause));
  }

  @Override
  boolean isSaved() {
    return interrupted.isSaved();
  }

  @Override
  void giveUp(RemoraException why) {
    interrupted.giveUp(why);
  }

  @Override
  Behavior<Command> onOpenSession(OpenSession command) {
    command.replyTo().tell(StatusReply.error(cause));
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onPause(Pause command) {
    command.replyTo().tell(StatusReply.error(cause));
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onResume(Resume command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onCloseSession(CloseSession command) {
    return machine.later(command);
  }
}
