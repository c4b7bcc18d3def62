// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import com.typesafe.config.ConfigException;
import io.remora.node.NodeStartException;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.util.concurrent.CompletableFuture;
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
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return CompletableFuture.supplyAsync(() -> start(spec, context), context.blocking());
  }

  private static ProvisionedNode start(MachineSpec spec, ProviderContext context) {
    try {
      MockSettings settings = MockSettings.from(context.config());
      LaunchToken token = LaunchToken.random();
      return switch (settings.mode()) {
        case CHILD_JVM -> ChildNode.start(spec, settings, token, context);
        case IN_JVM -> InJvmNode.start(spec, settings, token, context);
      };
    } catch (ProviderException e) {
      throw e;
    } catch (ConfigException | IllegalArgumentException e) {
      throw new ProviderException("wrong configuration: " + e.getMessage(), e);
    } catch (NodeStartException e) {
      throw new ProviderException(
          "the node of machine %s did not start: %s".formatted(spec.name(), e.getMessage()), e);
    } catch (RemoraException e) {
      throw new ProviderException(
          "the node of machine %s failed to start: %s".formatted(spec.name(), e.getMessage()), e);
    }
  }
}
