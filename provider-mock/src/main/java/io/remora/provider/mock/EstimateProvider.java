// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import com.typesafe.config.Config;
import io.remora.node.DeviceChoice;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.Preparation;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import java.util.concurrent.CompletionStage;

/**
 * Machines for dry runs: their nodes count storages and compute nothing. The nodes run on this
 * computer as those of {@link MockProvider} do, with its settings. Stateless and thread-safe.
 */
public final class EstimateProvider implements MachineProvider {

  /** The provider's name. */
  public static final String NAME = "estimate";

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public Preparation prepare(MachineSpec spec, Config config) {
    return LocalNodes.prepare(spec, settings(config), config);
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return LocalNodes.provision(spec, EstimateProvider::settings, context);
  }

  static MockSettings settings(Config config) {
    return MockSettings.from(config).withDevice(DeviceChoice.ESTIMATE);
  }
}
