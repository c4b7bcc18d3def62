// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.HostRestored;
import io.remora.actors.machine.MachineProtocol.HostSaved;
import io.remora.actors.node.NodeLink;
import io.remora.provider.NodeExit;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;

/** The states in which the node has the sessions. If the node is lost, so are they. */
abstract class Running extends WithNode {

  Running(Machine machine, Stage stage, String reason, NodeAttempt node) {
    super(machine, stage, reason, node);
  }

  @Override
  Behavior<Command> onSessionEnded(NodeLink.SessionEnded ended) {
    end(ended);
    return Behaviors.same();
  }

  /** Lets a host continue that has not learned that its pause is over. */
  @Override
  Behavior<Command> onHostSaved(HostSaved event) {
    event.host().tell(new SessionHost.GoOn());
    return super.onHostSaved(event);
  }

  /** Lets a host continue that has restored its sessions later than the machine waited for it. */
  @Override
  Behavior<Command> onHostRestored(HostRestored event) {
    event.host().tell(new SessionHost.GoOn());
    return Behaviors.same();
  }

  @Override
  void checkpoint() {
    machine.sessions.checkpoint(node::tellLink);
  }

  /** Recovers the sessions on another node, or fails. */
  @Override
  Behavior<Command> lose(RemoraException cause) {
    return machine.recovery().isOn() ? Purpose.Recover.begin(this, cause) : fail(cause);
  }

  @Override
  RemoraException exited(NodeExit exit, RemoraException linkLost) {
    return new NodeLostException(
        "machine %s lost its node (%s), on which its tensors took %d MiB: %s"
            .formatted(
                machine.name, node.description(), machine.sessions.realizedBytes() >> 20, exit),
        linkLost);
  }
}
