// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.ClusterConfig;
import io.remora.actors.ClusterNode;
import io.remora.metrics.HttpEndpoint;
import io.remora.runtime.RemoraException;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Supplier;

/**
 * The actor system of a node: local and quick to start, or a cluster member with role {@code gpu}
 * when there are seed nodes. It overrides the configuration keys that it depends on, whatever a
 * program's configuration on the shared class path sets.
 */
final class NodeSystem {

  /** Name of a node's system outside any cluster. */
  static final String LOCAL_NAME = "remora-node";

  private static final Config READINESS =
      ConfigFactory.parseMap(
          Map.of(
              "akka.management.health-checks.readiness-checks.remora-node",
              NodeReadiness.class.getName()),
          "the node");

  private NodeSystem() {}

  /** The system's name; if there are seed nodes, the name of their system. */
  static String name(NodeOptions options) {
    return options.seedNodes().isEmpty()
        ? LOCAL_NAME
        : checked(() -> ClusterConfig.systemName(options.seedNodes()));
  }

  /** The configuration, with the node's overrides. */
  static Config config(NodeOptions options, NodeSettings settings, Config config) {
    if (ClusterConfig.isBootstrap(options.seedNodes()) && settings.http().isEmpty()) {
      throw new NodeStartException(
          NodeStartException.Kind.CONFIGURATION,
          "--seed-nodes bootstrap needs --http (%s), where the other members ask for this one"
              .formatted(NodeSettings.HTTP),
          null);
    }
    Config system = config(options, config);
    return settings
        .http()
        .map(address -> HttpEndpoint.configure(address, READINESS.withFallback(system)))
        .orElse(system);
  }

  private static Config config(NodeOptions options, Config config) {
    Map<String, Object> keys = new TreeMap<>();
    keys.put("akka.daemonic", "on");
    keys.put("akka.jvm-exit-on-fatal-error", "off");
    keys.put("akka.jvm-shutdown-hooks", "off");
    keys.put("akka.log-dead-letters", "off");
    keys.put("akka.log-dead-letters-during-shutdown", "off");
    keys.put("akka.coordinated-shutdown.exit-jvm", "off");
    keys.put("akka.coordinated-shutdown.run-by-jvm-shutdown-hook", "off");
    // The node's actors do not compute, so two threads are enough.
    keys.put("akka.actor.default-dispatcher.fork-join-executor.parallelism-min", 2);
    keys.put("akka.actor.default-dispatcher.fork-join-executor.parallelism-max", 2);
    if (options.seedNodes().isEmpty()) {
      keys.put("akka.actor.provider", "local");
      return overlay(keys).withFallback(config);
    }
    keys.put("akka.cluster.roles", List.of(ClusterNode.ROLE));
    return overlay(keys).withFallback(checked(() -> ClusterConfig.of(config, options.seedNodes())));
  }

  private static Config overlay(Map<String, Object> keys) {
    return ConfigFactory.parseMap(keys, "the node");
  }

  private static <T> T checked(Supplier<T> value) {
    try {
      return value.get();
    } catch (IllegalArgumentException e) {
      throw new NodeStartException(
          NodeStartException.Kind.CONFIGURATION, "--seed-nodes: " + e.getMessage(), e);
    } catch (RemoraException e) {
      throw new NodeStartException(NodeStartException.Kind.CONFIGURATION, e.getMessage(), e);
    }
  }
}
