// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.address;

import akka.Done;
import com.typesafe.config.Config;
import io.remora.actors.link.LinkTransport;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/**
 * Machines on a node that was started by hand. {@code remora.provider.address} gives its address
 * and its token. A machine cannot choose GPUs: the node is as it was started. The token admits one
 * machine once, so the machine cannot resume on the same node after a pause. When the machine is
 * closed, the node ends after its {@code remora.node.orphan-timeout}. Stateless and thread-safe.
 */
public final class AddressProvider implements MachineProvider {

  /** The provider's name. */
  public static final String NAME = "address";

  private static final String PATH = "remora.provider.address";

  /** Called by the service loader. */
  public AddressProvider() {}

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    if (spec.gpuType() != null) {
      return CompletableFuture.failedFuture(
          new ProviderException(
              "provider address cannot choose a GPU, since the node is already running: "
                  + "leave out the GPU type"));
    }
    try {
      Config settings = context.config().getConfig(PATH);
      return CompletableFuture.completedFuture(
          new Node(
              LinkTransport.address(text(settings, "node")),
              LaunchToken.of(text(settings, "token"))));
    } catch (IllegalArgumentException e) {
      return CompletableFuture.failedFuture(
          new ProviderException("%s: %s".formatted(PATH, e.getMessage()), e));
    }
  }

  private static String text(Config settings, String key) {
    String text = settings.getString(key);
    if (text.isBlank()) {
      throw new IllegalArgumentException(
          key + " must be set: the HOST:PORT that the node listens on, and its REMORA_NODE_TOKEN");
    }
    return text;
  }

  private record Node(
      InetSocketAddress address, LaunchToken token, CompletableFuture<NodeExit> exited)
      implements ProvisionedNode {

    Node(InetSocketAddress address, LaunchToken token) {
      this(address, token, new CompletableFuture<>());
    }

    @Override
    public String description() {
      return "a node that was there";
    }

    /** Does nothing: the link has said goodbye, and the node ends by its own timeout. */
    @Override
    public CompletionStage<Done> terminate() {
      exited.complete(new NodeExit(0, List.of()));
      return CompletableFuture.completedFuture(Done.getInstance());
    }
  }
}
