// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import akka.Done;
import io.remora.node.EmbeddedNode;
import io.remora.node.NodeOptions;
import io.remora.provider.GpuType;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Executor;

/** A node in the program's own process. Thread-safe. */
final class InJvmNode implements ProvisionedNode {

  private final EmbeddedNode node;
  private final LaunchToken token;
  private final Executor blocking;

  private InJvmNode(EmbeddedNode node, LaunchToken token, Executor blocking) {
    this.node = node;
    this.token = token;
    this.blocking = blocking;
  }

  /**
   * Starts a node; blocks until its link port is open.
   *
   * @throws io.remora.node.NodeStartException if it cannot start
   */
  static InJvmNode start(
      MachineSpec spec, MockSettings settings, LaunchToken token, ProviderContext context) {
    Optional<String> gpuType = Optional.ofNullable(spec.gpuType()).map(GpuType::displayName);
    NodeOptions options =
        NodeOptions.defaults(token)
            .withDevices(settings.device(), Optional.of(spec.gpuCount()), gpuType)
            .withComputeThreads(settings.computeThreads());
    context.progress().accept("starting the node of %s in this JVM".formatted(spec.name()));
    return new InJvmNode(EmbeddedNode.start(options, context.config()), token, context.blocking());
  }

  @Override
  public InetSocketAddress address() {
    return node.address();
  }

  @Override
  public LaunchToken token() {
    return token;
  }

  @Override
  public String description() {
    return "a node in this JVM";
  }

  @Override
  public CompletionStage<NodeExit> exited() {
    return node.terminated().thenApply(done -> new NodeExit(0, List.of()));
  }

  @Override
  public CompletionStage<Done> terminate() {
    return CompletableFuture.runAsync(node::close, blocking)
        .thenApply(nothing -> Done.getInstance());
  }
}
