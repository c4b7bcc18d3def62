// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.node.NodeLink;
import io.remora.provider.NodeExit;
import io.remora.runtime.RemoraException;

/**
 * The second half of a pause: everything is saved, and the node is being ended. Events of its link
 * and its sessions are ignored.
 */
final class EndingNode extends Pausing {

  EndingNode(Saving from) {
    super(from, Stage.ENDING_NODE, null, from.why, from.pausedBy);
  }

  @Override
  Behavior<Command> begin() {
    machine.standby.end();
    node.end();
    machine.limit(machine.settings.closeTimeout());
    return this;
  }

  @Override
  Behavior<Command> onEnded(Throwable failure) {
    return failure == null
        ? machine.enter(Paused.saved(this))
        : notEnded("ending its node failed: " + failure);
  }

  /** Everything is saved, so the node need not wait. */
  @Override
  Behavior<Command> onNotice(NodeLink.Notice notice) {
    node.tellLink(NodeLink.DeclineNotice.INSTANCE);
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onTimeUp() {
    return notEnded(Closing.timeout(machine, node).getMessage());
  }

  /**
   * The node could not be ended. Without the link the machine cannot become ready again, but
   * everything is saved.
   */
  private Behavior<Command> notEnded(String cause) {
    if (node.isConnected()) {
      node.keep();
      return notPaused(cause);
    }
    log.warn("Machine {} is paused, but its node may still run: {}", machine.name, cause);
    return machine.enter(Paused.saved(this));
  }

  @Override
  Behavior<Command> onSessionEnded(NodeLink.SessionEnded ended) {
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onLinkLost(RemoraException cause) {
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onLinkStopped() {
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onExited(NodeExit exit) {
    return Behaviors.same();
  }
}
