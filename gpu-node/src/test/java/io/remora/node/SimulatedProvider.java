// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import java.util.concurrent.CompletionStage;

/** Provider {@code simulated}: gives the nodes of the simulation on this thread. */
public final class SimulatedProvider implements MachineProvider {

  private static final ThreadLocal<RecoverySimulation> CURRENT = new ThreadLocal<>();

  static void use(RecoverySimulation simulation) {
    CURRENT.set(simulation);
  }

  @Override
  public String name() {
    return "simulated";
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return CURRENT.get().provision();
  }
}
