// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.testkit;

import io.remora.provider.MachineProvider;
import io.remora.provider.MachineProviders;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import java.util.Map;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Delegates to the provider {@code remora.provider.observed.provider}, and gives tests access to
 * the nodes as well as the machines.
 */
public final class ObservedProvider implements MachineProvider {

  static final String NAME = "observed";
  static final String PROVIDER = "remora.provider.observed.provider";

  private static final Map<String, ProvisionedNode> NODES = new ConcurrentHashMap<>();

  /** Called by the service loader. */
  public ObservedProvider() {}

  /** The node of this machine. */
  static ProvisionedNode node(String machine) {
    return NODES.get(machine);
  }

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return MachineProviders.named(context.config().getString(PROVIDER))
        .provision(spec, context)
        .thenApply(
            node -> {
              NODES.put(spec.name(), node);
              return node;
            });
  }
}
