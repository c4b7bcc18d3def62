// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import akka.Done;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineProviders;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.testing.FaultForwarder;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.util.Map;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;

/** Machines of the mock provider whose links lead through a {@link FaultForwarder}. */
public final class FaultyProvider implements MachineProvider {

  private static final Map<String, FaultForwarder> FORWARDERS = new ConcurrentHashMap<>();

  /** What the link of this machine leads through. */
  static FaultForwarder forwarder(RemoteMachine machine) {
    return FORWARDERS.get(machine.name());
  }

  @Override
  public String name() {
    return "faulty";
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return MachineProviders.named("mock")
        .provision(spec, context)
        .thenApply(node -> new Forwarded(spec.name(), node));
  }

  private static final class Forwarded implements ProvisionedNode {

    private final ProvisionedNode node;
    private final FaultForwarder forwarder;

    Forwarded(String machine, ProvisionedNode node) {
      this.node = node;
      this.forwarder = new FaultForwarder(node.address());
      FORWARDERS.put(machine, forwarder);
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
