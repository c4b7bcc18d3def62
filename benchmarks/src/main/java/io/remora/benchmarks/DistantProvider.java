// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

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
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.util.concurrent.CompletionStage;

/**
 * Machines of the provider mock whose nodes are far away: {@value #DELAY} is the time that bytes
 * take one way, and {@value #RATE} the bytes a second that pass each way, 0 for no limit.
 */
public final class DistantProvider implements MachineProvider {

  static final String NAME = "distant";
  static final String DELAY = "remora.provider.distant.delay";
  static final String RATE = "remora.provider.distant.bytes-per-second";

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    Config config = context.config();
    return MachineProviders.named("mock")
        .provision(spec, context)
        .thenApply(
            node -> {
              FaultForwarder line = new FaultForwarder(node.address());
              line.delay(config.getDuration(DELAY));
              if (config.getLong(RATE) > 0) {
                line.slow(config.getLong(RATE));
              }
              return new Distant(node, line);
            });
  }

  private record Distant(ProvisionedNode node, FaultForwarder line) implements ProvisionedNode {

    @Override
    public InetSocketAddress address() {
      return line.address();
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
      return node.terminate().whenComplete((done, failure) -> closeLine());
    }

    private void closeLine() {
      try {
        line.close();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }
}
