// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import akka.Done;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.launch.NodeLog;
import io.remora.provider.launch.NodeProcess;
import io.remora.provider.mock.NodeLaunch.Command;
import io.remora.runtime.ProviderException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.concurrent.CompletionStage;

/** A node in a child process. Thread-safe. */
record ChildNode(
    NodeProcess process, InetSocketAddress address, LaunchToken token, Duration stopTimeout)
    implements ProvisionedNode {

  /**
   * Starts a child and blocks until it has printed its address.
   *
   * @throws ProviderException if that fails; the child is then ended
   */
  static ChildNode start(
      MachineSpec spec, MockSettings settings, LaunchToken token, ProviderContext context) {
    NodeLog nodeLog = new NodeLog(spec.name());
    try (Command command = NodeLaunch.command(spec, settings, token, context.config(), nodeLog)) {
      NodeProcess process = NodeProcess.start(spec, command.builder(), new byte[0], nodeLog);
      context.progress().accept("started child process %d".formatted(process.pid()));
      InetSocketAddress address =
          process.awaitAddress(
              settings.startTimeout(), "remora.provider.mock.start-timeout", context);
      return new ChildNode(process, address, token, settings.stopTimeout());
    }
  }

  @Override
  public String description() {
    return "child process " + process.pid();
  }

  @Override
  public CompletionStage<NodeExit> exited() {
    return process.exited();
  }

  @Override
  public CompletionStage<Done> terminate() {
    return process.end(stopTimeout, () -> {});
  }
}
