// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProvisioningTimeoutException;

/** The provider is getting a node. */
final class AwaitingNode extends Opening {

  AwaitingNode(Machine machine, String reason, NodeAttempt node, Purpose purpose) {
    super(machine, Stage.AWAITING_NODE, reason, node, purpose);
  }

  /** A node that was ordered before the last one was lost may have arrived already. */
  @Override
  Behavior<Command> begin() {
    super.begin();
    return node.isRunning() ? machine.enter(new Connecting(this)) : this;
  }

  @Override
  Behavior<Command> onArrived(ProvisionedNode arrived) {
    node.take(arrived);
    return machine.enter(new Connecting(this));
  }

  @Override
  Behavior<Command> onNotProvisioned(Throwable failure) {
    return lose(NodeAttempt.failure(machine.spec(), failure));
  }

  @Override
  Behavior<Command> onTimeUp() {
    return lose(
        new ProvisioningTimeoutException(
            "provider %s did not start a node for machine %s within %s%s"
                .formatted(machine.spec().provider(), machine.name, limit(), node.latestNews())));
  }
}
