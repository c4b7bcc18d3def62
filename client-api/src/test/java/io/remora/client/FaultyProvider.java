// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import akka.Done;
import com.typesafe.config.Config;
import io.remora.actors.testkit.FaultForwarder;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineProviders;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Machines of the mock provider whose links lead through a {@link FaultForwarder}. With {@code
 * remora.provider.faulty.node} it returns another machine's node again, and with {@code
 * remora.provider.faulty.token} it returns that node with this wrong token.
 */
public final class FaultyProvider implements MachineProvider {

  private static final String NODE = "remora.provider.faulty.node";
  private static final String TOKEN = "remora.provider.faulty.token";

  private static final Map<String, Forwarded> NODES = new ConcurrentHashMap<>();

  /** How many further requests for nodes are refused, by machine. */
  private static final Map<String, Integer> REFUSALS = new ConcurrentHashMap<>();

  /** Makes the provider refuse the next requests of a machine. */
  static void refuse(RemoteMachine machine, int requests) {
    REFUSALS.put(machine.name(), requests);
  }

  /** The forwarder of this machine's link. */
  static FaultForwarder forwarder(RemoteMachine machine) {
    return NODES.get(machine.name()).forwarder;
  }

  @Override
  public String name() {
    return "faulty";
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    Config config = context.config();
    Integer left = REFUSALS.computeIfPresent(spec.name(), (key, n) -> n > 0 ? n - 1 : null);
    if (left != null) {
      return CompletableFuture.failedFuture(new ProviderException("there is no node at present"));
    }
    if (config.hasPath(NODE)) {
      ProvisionedNode node = NODES.get(config.getString(NODE)).node;
      return CompletableFuture.completedFuture(
          new Stolen(
              node,
              config.hasPath(TOKEN) ? LaunchToken.of(config.getString(TOKEN)) : node.token()));
    }
    return MachineProviders.named("mock")
        .provision(spec, context)
        .thenApply(
            node -> {
              Forwarded forwarded = new Forwarded(node);
              NODES.put(spec.name(), forwarded);
              return forwarded;
            });
  }

  /** Another machine's node. It stays up when this machine ends. */
  private record Stolen(ProvisionedNode node, LaunchToken token) implements ProvisionedNode {

    @Override
    public InetSocketAddress address() {
      return node.address();
    }

    @Override
    public String description() {
      return node.description();
    }

    @Override
    public CompletionStage<NodeExit> exited() {
      return node.exited();
    }

    @Override
    public CompletionStage<Done> terminate() {
      return CompletableFuture.completedFuture(Done.getInstance());
    }
  }

  private static final class Forwarded implements ProvisionedNode {

    private final ProvisionedNode node;
    private final FaultForwarder forwarder;

    Forwarded(ProvisionedNode node) {
      this.node = node;
      this.forwarder = new FaultForwarder(node.address());
    }

    @Override
    public InetSocketAddress address() {
      return forwarder.address();
    }

    @Override
    public LaunchToken token() {
      return node.token();
    }

    @Override
    public String description() {
      return node.description();
    }

    @Override
    public CompletionStage<NodeExit> exited() {
      return node.exited();
    }

    @Override
    public CompletionStage<Done> terminate() {
      return node.terminate()
          .whenComplete(
              (done, failure) -> {
                try {
                  forwarder.close();
                } catch (IOException e) {
                  throw new UncheckedIOException(e);
                }
              });
    }
  }
}
