// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.MachineInfo;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.HostSaved;
import io.remora.actors.machine.MachineProtocol.HostUsed;
import io.remora.actors.machine.MachineProtocol.Pause;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;

/** The states of a pause. Until the node has ended, the machine can still become ready again. */
abstract class Pausing extends Running {

  /** The reason for a pause. */
  enum Why {
    ASKED,
    IDLE,
    LEAVING,
    /** To restore the sessions on another node. */
    MOVING
  }

  final Why why;
  final Askers<MachineInfo> pausedBy;

  Pausing(MachineBehavior from, Stage stage, String reason, Why why, Askers<MachineInfo> pausedBy) {
    super(from.machine, stage, reason, from.node);
    this.why = why;
    this.pausedBy = pausedBy;
  }

  /** Whether the machine pauses by itself; using the machine then cancels the pause. */
  final boolean isByItself() {
    return why == Why.IDLE && pausedBy.isEmpty();
  }

  /** Makes the machine ready again: the pause has failed. */
  Behavior<Command> notPaused(String cause) {
    if (!isByItself()) {
      log.warn("Machine {} was not paused: {}", machine.name, cause);
    }
    pausedBy.refuse(
        new MachineStateException(
            "machine " + machine.name + " was not paused and continues: " + cause));
    return goOn("not paused: " + cause);
  }

  /** Lets the sessions continue on their node. */
  final Behavior<Command> goOn(String reason) {
    machine.saved.deleteOn(node);
    machine.hosts.tell(new SessionHost.GoOn());
    machine.sessions.goOn();
    if (machine.isLeaving()) {
      // The pause was tried. A node that no other process can take over ends with this process.
      return node.handle().isPresent() ? machine.enter(new HandingOver(this)) : Behaviors.stopped();
    }
    return machine.enter(Ready.orReconnecting(this, reason));
  }

  /** The sessions are being saved anyway. */
  @Override
  void checkpoint() {}

  @Override
  void giveUp(RemoraException cause) {
    pausedBy.refuse(cause);
  }

  @Override
  Behavior<Command> onPause(Pause command) {
    pausedBy.add(command.replyTo());
    return Behaviors.same();
  }

  @Override
  boolean isPassing() {
    return true;
  }

  @Override
  Behavior<Command> onHostSaved(HostSaved event) {
    forgetUnlessOfThisPause(event.pause());
    return Behaviors.same();
  }

  /** Keeps the report for the paused machine, which resumes before it handles a later pause. */
  @Override
  Behavior<Command> onHostUsed(HostUsed event) {
    return machine.later(event);
  }
}
