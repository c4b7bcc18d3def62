// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import akka.Done;
import io.remora.actors.link.LinkTls;
import io.remora.provider.LaunchToken;
import io.remora.provider.NodeExit;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.launch.NodeProcess;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CompletionStage;

/** A node that a command runs. Thread-safe. */
record CommandNode(
    String command,
    NodeProcess process,
    InetSocketAddress address,
    LaunchToken token,
    Optional<LinkTls> tls,
    Duration stopTimeout,
    EndCommand end)
    implements ProvisionedNode {

  @Override
  public String description() {
    return "node by %s, process %d".formatted(command, process.pid());
  }

  @Override
  public CompletionStage<NodeExit> exited() {
    return process.exited();
  }

  @Override
  public CompletionStage<Done> terminate() {
    return process.end(stopTimeout, end);
  }
}
