// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import akka.Done;
import io.remora.provider.LaunchToken;
import io.remora.provider.NodeExit;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.launch.NodeProcess;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.concurrent.CompletionStage;

/** A node in a child process. Thread-safe. */
record ChildNode(
    NodeProcess process, InetSocketAddress address, LaunchToken token, Duration stopTimeout)
    implements ProvisionedNode {

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
