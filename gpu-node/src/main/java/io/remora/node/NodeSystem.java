// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.ActorsSettings;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * The actor system of a node: local and quick to start, or a cluster member with role {@code gpu}
 * when there are seed nodes. Decides over the keys that matter to it, whatever the program's own
 * configuration on the shared class path says about them.
 */
final class NodeSystem {

  /** Name of a node's system outside any cluster. */
  static final String LOCAL_NAME = "remora-node";

  /** Name of the systems of a Remora cluster: members must all have the same. */
  static final String CLUSTER_NAME = "remora";

  /** The role of nodes in a cluster. */
  static final String ROLE = "gpu";

  private static final String AKKA_SCHEME = "akka://";

  private NodeSystem() {}

  /** The system's name: that of the seed nodes' system, where there are any. */
  static String name(NodeOptions options) {
    if (options.seedNodes().isEmpty()) {
      return LOCAL_NAME;
    }
    String first = seedAddress(options.seedNodes().get(0));
    return first.substring(AKKA_SCHEME.length(), first.indexOf('@'));
  }

  /** The configuration with the node's decisions laid over it. */
  static Config config(NodeOptions options, Config config) {
    Map<String, Object> keys = new TreeMap<>();
    keys.put("akka.daemonic", "on");
    keys.put("akka.jvm-exit-on-fatal-error", "off");
    keys.put("akka.jvm-shutdown-hooks", "off");
    keys.put("akka.log-dead-letters", "off");
    keys.put("akka.log-dead-letters-during-shutdown", "off");
    keys.put("akka.coordinated-shutdown.exit-jvm", "off");
    keys.put("akka.coordinated-shutdown.run-by-jvm-shutdown-hook", "off");
    // The node's actors decide, they do not compute: two threads do.
    keys.put("akka.actor.default-dispatcher.fork-join-executor.parallelism-min", 2);
    keys.put("akka.actor.default-dispatcher.fork-join-executor.parallelism-max", 2);
    if (options.seedNodes().isEmpty()) {
      keys.put("akka.actor.provider", "local");
      return overlay(keys).withFallback(config);
    }
    keys.put("akka.actor.provider", "cluster");
    keys.put(
        "akka.remote.artery.canonical.hostname", options.listen().getAddress().getHostAddress());
    keys.put("akka.cluster.roles", List.of(ROLE));
    keys.put(
        "akka.cluster.seed-nodes",
        options.seedNodes().stream().map(NodeSystem::seedAddress).toList());
    // The end of the node is an ordinary leaving of the cluster.
    keys.put("akka.coordinated-shutdown.run-by-actor-system-terminate", "on");
    keys.put("akka.coordinated-shutdown.terminate-actor-system", "on");
    return overlay(keys)
        .withFallback(ActorsSettings.from(config).embeddedCluster())
        .withFallback(config);
  }

  private static Config overlay(Map<String, Object> keys) {
    return ConfigFactory.parseMap(keys, "the node");
  }

  private static String seedAddress(String seed) {
    if (seed.startsWith(AKKA_SCHEME) && seed.indexOf('@') > AKKA_SCHEME.length()) {
      return seed;
    }
    if (!seed.matches("[^:/@]+:\\d{1,5}")) {
      throw new NodeStartException(
          NodeStartException.Kind.CONFIGURATION,
          "--seed-nodes: '%s' is neither HOST:PORT nor akka://system@host:port".formatted(seed));
    }
    return AKKA_SCHEME + CLUSTER_NAME + "@" + seed;
  }
}
