// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import com.typesafe.config.Config;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.Preparation;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import java.util.concurrent.CompletionStage;

/**
 * Machines on this computer. By default each is a child process that ends with its machine, or at
 * the latest with this JVM, however the JVM ends; {@code remora.provider.mock.mode = in-jvm} runs
 * the node in this JVM instead. Stateless and thread-safe.
 */
public final class MockProvider implements MachineProvider {

  /** The provider's name. */
  public static final String NAME = "mock";

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public Preparation prepare(MachineSpec spec, Config config) {
    return LocalNodes.prepare(spec, MockSettings.from(config), config);
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return LocalNodes.provision(spec, MockSettings::from, context);
  }
}
