// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorSystem;
import akka.actor.typed.javadsl.Adapter;
import akka.management.cluster.bootstrap.ClusterBootstrap;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.internal.ClusterSecurity;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * Akka's configuration of the members of a Remora cluster: {@code remora.cluster.embedded},
 * overridden by {@code remora.cluster.member} if there are seed nodes.
 */
public final class ClusterConfig {

  /** Name of the actor systems of a Remora cluster. All members must have the same name. */
  public static final String SYSTEM = "remora";

  private static final String AKKA_SCHEME = "akka://";
  private static final String BOOTSTRAP = "bootstrap";

  private ClusterConfig() {}

  /**
   * The configuration of a member.
   *
   * @param root the whole configuration
   * @param seedNodes as {@code remora.cluster.seed-nodes}; empty for a cluster of one member
   * @throws io.remora.runtime.RemoraException if other computers could reach the member, but it
   *     does not use TLS
   * @throws IllegalArgumentException if a seed node, or {@code remora.cluster.listen}, is not
   *     "host:port"
   */
  public static Config of(Config root, List<String> seedNodes) {
    ActorsSettings settings = ActorsSettings.from(root);
    Map<String, Object> keys = new TreeMap<>();
    int colon = settings.clusterListen().lastIndexOf(':');
    if (!settings.clusterListen().matches(".+:\\d{1,5}")) {
      throw new IllegalArgumentException(
          "remora.cluster.listen must be HOST:PORT, but it is " + settings.clusterListen());
    }
    keys.put("akka.remote.artery.canonical.hostname", settings.clusterListen().substring(0, colon));
    keys.put("akka.remote.artery.canonical.port", settings.clusterListen().substring(colon + 1));
    Config embedded = settings.embeddedCluster().withFallback(root);
    if (seedNodes.isEmpty()) {
      return ClusterSecurity.secured(overlay(keys).withFallback(embedded));
    }
    if (!isBootstrap(seedNodes)) {
      keys.put("akka.cluster.seed-nodes", seedNodes.stream().map(ClusterConfig::address).toList());
    }
    return ClusterSecurity.secured(
        overlay(keys).withFallback(settings.memberCluster()).withFallback(embedded));
  }

  /** Whether members find each other by Akka Cluster Bootstrap instead of seed nodes. */
  public static boolean isBootstrap(List<String> seedNodes) {
    return seedNodes.equals(List.of(BOOTSTRAP));
  }

  /**
   * Starts Akka Cluster Bootstrap, which finds the other members and joins them or forms a cluster
   * with them.
   *
   * @param system the actor system; its HTTP endpoint, which the other members use, must be open
   */
  public static void bootstrap(ActorSystem<?> system) {
    ClusterBootstrap.get(Adapter.toClassic(system)).start();
  }

  /** The name of the seed nodes' actor system. */
  public static String systemName(List<String> seedNodes) {
    if (seedNodes.isEmpty() || isBootstrap(seedNodes)) {
      return SYSTEM;
    }
    String first = address(seedNodes.get(0));
    return first.substring(AKKA_SCHEME.length(), first.indexOf('@'));
  }

  private static Config overlay(Map<String, Object> keys) {
    return ConfigFactory.parseMap(keys, "the member of a cluster");
  }

  private static String address(String seed) {
    if (seed.startsWith(AKKA_SCHEME) && seed.indexOf('@') > AKKA_SCHEME.length()) {
      return seed;
    }
    if (!seed.matches("[^:/@]+:\\d{1,5}")) {
      throw new IllegalArgumentException(
          "the seed node '%s' is neither HOST:PORT nor akka://system@host:port; nor is it 'bootstrap', alone"
              .formatted(seed));
    }
    return AKKA_SCHEME + SYSTEM + "@" + seed;
  }
}
