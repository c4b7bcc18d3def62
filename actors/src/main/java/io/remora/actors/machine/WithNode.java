// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.provider.NodeExit;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;

/** The states that need their node and end without it. */
abstract class WithNode extends MachineBehavior {

  WithNode(Machine machine, Stage stage, String reason, NodeAttempt node) {
    super(machine, stage, reason, node);
  }

  /** Changes the state after the node was lost or could not be started. */
  abstract Behavior<Command> lose(RemoraException cause);

  /** The error for a node that has exited; {@code linkLost} is the error of its link, or null. */
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
