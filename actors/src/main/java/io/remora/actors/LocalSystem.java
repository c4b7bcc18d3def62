// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorSystem;
import akka.actor.typed.javadsl.Behaviors;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;

/**
 * Actor systems outside any cluster, for clients and servers of HTTP and gRPC. Their threads are
 * daemons and they have no exit hooks, so their creator must terminate them.
 */
public final class LocalSystem {

  private static final Config ALONE =
      ConfigFactory.parseString(
          """
          akka.daemonic = on
          akka.actor.provider = local
          akka.jvm-shutdown-hooks = off
          akka.coordinated-shutdown.run-by-jvm-shutdown-hook = off
          akka.coordinated-shutdown.run-by-actor-system-terminate = off
          """);

  private LocalSystem() {}

  /**
   * Starts a system.
   *
   * @param root the whole configuration, {@code remora.cluster.embedded} included
   */
  public static ActorSystem<Void> start(String name, Config root) {
    Config embedded = root.getConfig("remora.cluster.embedded").withoutPath("akka.actor");
    return ActorSystem.create(
        Behaviors.empty(), name, ALONE.withFallback(embedded).withFallback(root));
  }
}
