// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import java.util.Map;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.BiFunction;

/** Provider {@code test}: does for each machine what its test has planned. */
public final class TestProvider implements MachineProvider {

  private static final Map<
          String, BiFunction<MachineSpec, ProviderContext, CompletionStage<ProvisionedNode>>>
      PLANS = new ConcurrentHashMap<>();

  /** Sets what provisioning this machine does from now on. */
  static void plan(
      String machine,
      BiFunction<MachineSpec, ProviderContext, CompletionStage<ProvisionedNode>> plan) {
    PLANS.put(machine, plan);
  }

  @Override
  public String name() {
    return "test";
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return PLANS.get(spec.name()).apply(spec, context);
  }

  /** Does the same as {@link #provision}: the test supplies the node. */
  @Override
  public CompletionStage<ProvisionedNode> takeOver(
      String handle, MachineSpec spec, ProviderContext context) {
    return provision(spec, context);
  }
}
