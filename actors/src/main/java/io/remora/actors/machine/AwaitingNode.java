// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.RemoraException;
import java.util.concurrent.CompletionException;

/** The provider is getting a node. */
final class AwaitingNode extends Opening {

  AwaitingNode(Machine machine, String reason, NodeAttempt node, Purpose purpose) {
    super(machine, Stage.AWAITING_NODE, reason, node, purpose);
  }

  @Override
  Behavior<Command> onArrived(ProvisionedNode arrived) {
    node.take(arrived);
    return machine.enter(new Connecting(this));
  }

  @Override
  Behavior<Command> onNotProvisioned(Throwable failure) {
    Throwable cause = failure;
    while (cause instanceof CompletionException && cause.getCause() != null) {
      cause = cause.getCause();
    }
    return lose(
        cause instanceof RemoraException ours
            ? ours
            : new ProviderException(
                "provider %s failed for machine %s: %s"
                    .formatted(machine.spec().provider(), machine.name, cause),
                cause));
  }

  @Override
  Behavior<Command> onTimeUp() {
    return lose(
        new ProvisioningTimeoutException(
            "provider %s did not start a node for machine %s within %s%s"
                .formatted(machine.spec().provider(), machine.name, limit(), node.latestNews())));
  }
}
