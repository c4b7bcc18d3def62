// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import io.remora.actors.ActorsSettings;
import io.remora.node.NodeSettings;
import io.remora.node.NodeStartException;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.Preparation;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;

/**
 * Machines on this computer. By default each is a child process that ends with its machine, or at
 * the latest with this JVM, however the JVM ends; {@code remora.provider.mock.mode = in-jvm} runs
 * the node in this JVM instead. Stateless and thread-safe.
 */
public final class MockProvider implements MachineProvider {

  /** The provider's name. */
  public static final String NAME = "mock";

  /** Nodes that were started before the machine's actor asked for them. */
  private static final ConcurrentMap<MachineSpec, StartingChild> PREPARED =
      new ConcurrentHashMap<>();

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public Preparation prepare(MachineSpec spec, Config config) {
    MockSettings settings = MockSettings.from(config);
    if (settings.mode() != MockSettings.Mode.CHILD_JVM || !waitsForTheCluster(config)) {
      return Preparation.NOTHING;
    }
    StartingChild child = StartingChild.start(spec, settings, config);
    StartingChild earlier = PREPARED.put(spec, child);
    if (earlier != null) {
      earlier.end();
    }
    return () -> {
      if (PREPARED.remove(spec, child)) {
        child.end();
      }
    };
  }

  /** Whether a node that nobody connects to lives for as long as the cluster may take to start. */
  private static boolean waitsForTheCluster(Config config) {
    return NodeSettings.from(config)
            .orphanTimeout()
            .compareTo(ActorsSettings.from(config).joinTimeout())
        >= 0;
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return CompletableFuture.supplyAsync(() -> start(spec, context), context.blocking());
  }

  private static ProvisionedNode start(MachineSpec spec, ProviderContext context) {
    try {
      MockSettings settings = MockSettings.from(context.config());
      return switch (settings.mode()) {
        case CHILD_JVM -> child(spec, settings, context.config()).await(context);
        case IN_JVM -> InJvmNode.start(spec, settings, LaunchToken.random(), context);
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

  /** The child that was prepared for this machine, or a new one. */
  private static StartingChild child(MachineSpec spec, MockSettings settings, Config config) {
    StartingChild prepared = PREPARED.remove(spec);
    if (prepared != null && prepared.runsWith(settings, config)) {
      return prepared;
    }
    if (prepared != null) {
      prepared.end();
    }
    return StartingChild.start(spec, settings, config);
  }
}
