// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.provider.NodeExit;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;

/** States that need their node: without it they end. */
abstract class WithNode extends MachineBehavior {

  WithNode(Machine machine, Stage stage, String reason, NodeAttempt node) {
    super(machine, stage, reason, node);
  }

  /** The node is lost, or not to be had: what follows. */
  abstract Behavior<Command> lose(RemoraException cause);

  /**
   * How to say that the node has exited; {@code linkLost} says what became of its link, or is null.
   */
  abstract RemoraException exited(NodeExit exit, RemoraException linkLost);

  @Override
  Behavior<Command> onExited(NodeExit exit) {
    return lose(exited(exit, null));
  }

  @Override
  Behavior<Command> onLinkLost(RemoraException cause) {
    return machine.enter(new Losing(this, cause));
  }

  @Override
  Behavior<Command> onLinkStopped() {
    return lose(
        new NodeLostException("the link of machine " + machine.name + " failed; see the log"));
  }
}
