// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import io.remora.actors.ActorsSettings;
import io.remora.node.NodeSettings;
import io.remora.node.NodeStartException;
import io.remora.provider.LaunchToken;
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
import java.util.function.Function;

/** Starts nodes on this computer, for the providers of this module. Thread-safe. */
final class LocalNodes {

  /** Nodes that were started before the machine's actor asked for them. */
  private static final ConcurrentMap<MachineSpec, StartingChild> PREPARED =
      new ConcurrentHashMap<>();

  private LocalNodes() {}

  /**
   * Starts a node before the machine's actor asks for it, where that is possible.
   *
   * @param config the machine's configuration
   */
  static Preparation prepare(MachineSpec spec, MockSettings settings, Config config) {
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

  /**
   * Starts a node, or takes the one that was prepared.
   *
   * @param settings reads the provider's settings from the machine's configuration
   */
  static CompletionStage<ProvisionedNode> provision(
      MachineSpec spec, Function<Config, MockSettings> settings, ProviderContext context) {
    return CompletableFuture.supplyAsync(() -> start(spec, settings, context), context.blocking());
  }

  private static ProvisionedNode start(
      MachineSpec spec, Function<Config, MockSettings> reader, ProviderContext context) {
    try {
      MockSettings settings = reader.apply(context.config());
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
