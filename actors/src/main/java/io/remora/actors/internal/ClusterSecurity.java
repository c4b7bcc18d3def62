// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.runtime.RemoraException;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.List;

/**
 * The security of connections between cluster members. They use TLS if {@code remora.cluster.tls}
 * is on, and off loopback TLS is required.
 */
public final class ClusterSecurity {

  private static final String ARTERY = "akka.remote.artery.";

  private ClusterSecurity() {}

  /**
   * The configuration of an actor system, with TLS if it is on.
   *
   * @param config the whole configuration of the system
   * @throws RemoraException if other computers could reach the system, but it does not use TLS
   */
  public static Config secured(Config config) {
    Config secured =
        config.getBoolean("remora.cluster.tls")
            ? ConfigFactory.parseResources(
                    ClusterSecurity.class.getClassLoader(), "remora-cluster-tls.conf")
                .withFallback(config)
            : config;
    check(secured);
    return secured;
  }

  private static void check(Config config) {
    if (config.getString("akka.actor.provider").equals("local")
        || config.getString(ARTERY + "transport").equals("tls-tcp")) {
      return;
    }
    for (String key : List.of("canonical.hostname", "bind.hostname")) {
      String host = config.getString(ARTERY + key);
      if (!host.isEmpty() && !isLoopback(host)) {
        throw new RemoraException(
            ("a cluster member at %s (%s%s) must use TLS, so that only members can join: "
                    + "set remora.cluster.tls = on, and certificates under remora.link.tls "
                    + "(docs/security.md)")
                .formatted(host, ARTERY, key));
      }
    }
  }

  private static boolean isLoopback(String host) {
    if (host.startsWith("<")) {
      return false; // <getHostAddress>: an address that other computers reach
    }
    try {
      InetAddress[] addresses = InetAddress.getAllByName(host);
      for (InetAddress address : addresses) {
        if (!address.isLoopbackAddress()) {
          return false;
        }
      }
      return true;
    } catch (UnknownHostException e) {
      return false;
    }
  }
}
