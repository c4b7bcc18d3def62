// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import io.remora.actors.MachineInfo;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.runtime.RemoraException;

/** The link is reconnecting; the node continues with the work that it has. */
final class Reconnecting extends Running {

  final long sinceNanos;
  final Askers<MachineInfo> pausedBy;

  /**
   * @param sinceNanos since when the machine has been ready, apart from its broken link
   * @param pausedBy the askers whose pause starts after the reconnection
   */
  Reconnecting(MachineBehavior from, String reason, long sinceNanos, Askers<MachineInfo> pausedBy) {
    super(from.machine, Stage.RECONNECTING, reason, from.node);
    this.sinceNanos = sinceNanos;
    this.pausedBy = pausedBy;
  }

  @Override
  Behavior<Command> onLinkRestored(String how) {
    return machine.enter(Ready.reconnected(this, how));
  }

  @Override
  Behavior<Command> onSessionReady(long session) {
    machine.sessions.opened(session, machine.info(), machine.recording());
    return this;
  }

  @Override
  void keepStandby() {
    machine.standby.keep();
  }

  @Override
  boolean isPassing() {
    return true;
  }

  @Override
  void giveUp(RemoraException cause) {
    pausedBy.refuse(cause);
  }

  @Override
  Behavior<Command> leave() {
    return node.handle().isPresent() ? machine.enter(new HandingOver(this)) : super.leave();
  }
}
