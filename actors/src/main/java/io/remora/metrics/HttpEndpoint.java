// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.metrics;

import static java.util.Objects.requireNonNull;

import akka.actor.typed.ActorSystem;
import akka.http.javadsl.model.Uri;
import akka.management.javadsl.AkkaManagement;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnknownHostException;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletionStage;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Metrics and health of a process over HTTP: Akka Management, with Remora's routes and checks among
 * its own. {@code /metrics} is Prometheus's text format, {@code /health/alive} and {@code
 * /health/ready} answer 200 or 500; in a cluster there are also {@code /cluster/members} and Akka
 * Management's other read-only routes.
 *
 * <p>First {@link #configure} the actor system's configuration, then {@link #start}.
 */
public final class HttpEndpoint {

  private static final Logger log = LoggerFactory.getLogger(HttpEndpoint.class);
  private static final String OFF = "off";

  /** Requests are answered at once. A longer timeout would only let strangers hold connections. */
  private static final String IDLE_TIMEOUT = "10 s";

  private HttpEndpoint() {}

  /**
   * Reads the endpoint's address.
   *
   * @param root the whole configuration
   * @param key the key of the setting, which is {@code off}, {@code PORT} or {@code HOST:PORT}
   * @return the address; empty if off
   * @throws IllegalArgumentException if it is neither, or not a loopback address while {@code
   *     remora.metrics.off-loopback} is off
   */
  public static Optional<InetSocketAddress> address(Config root, String key) {
    String text = root.getString(key);
    if (text.equals(OFF) || text.equals("false")) {
      return Optional.empty();
    }
    InetSocketAddress address = parse(text, key);
    if (!address.getAddress().isLoopbackAddress()
        && !root.getBoolean("remora.metrics.off-loopback")) {
      throw new IllegalArgumentException(
          ("%s = %s is not a loopback address, and anyone who reaches it can read "
                  + "metrics and health: set remora.metrics.off-loopback = on to allow this")
              .formatted(key, text));
    }
    return Optional.of(address);
  }

  private static InetSocketAddress parse(String text, String key) {
    int colon = text.lastIndexOf(':');
    try {
      int port = Integer.parseInt(text.substring(colon + 1));
      if (port >= 0 && port <= 65535 && colon != 0) {
        return colon < 0
            ? new InetSocketAddress(InetAddress.getLoopbackAddress(), port)
            : new InetSocketAddress(InetAddress.getByName(text.substring(0, colon)), port);
      }
    } catch (NumberFormatException e) {
      // Reported below.
    } catch (UnknownHostException e) {
      throw new IllegalArgumentException("%s: unknown host in %s".formatted(key, text), e);
    }
    throw new IllegalArgumentException(
        "%s must be off, PORT or HOST:PORT, but is %s".formatted(key, text));
  }

  /**
   * The configuration with Akka Management's settings for an endpoint at this address.
   *
   * @param system the configuration for the actor system
   */
  public static Config configure(InetSocketAddress address, Config system) {
    Map<String, Object> keys = new HashMap<>();
    keys.put("akka.management.http.hostname", address.getAddress().getHostAddress());
    keys.put("akka.management.http.port", address.getPort());
    keys.put("akka.http.server.idle-timeout", IDLE_TIMEOUT);
    keys.put("akka.http.server.transparent-head-requests", "on");
    keys.put("akka.management.http.routes.remora", MetricsRoutes.class.getName());
    keys.put("akka.management.health-checks.readiness-path", "health/ready");
    keys.put("akka.management.health-checks.liveness-path", "health/alive");
    if (!system.getString("akka.actor.provider").equals("cluster")) {
      keys.put("akka.management.http.routes.cluster-management", "");
      keys.put("akka.management.http.routes.cluster-bootstrap", "");
      keys.put("akka.management.health-checks.readiness-checks.cluster-membership", "");
      keys.put("akka.management.health-checks.readiness-checks.sharding", "");
    }
    return ConfigFactory.parseMap(keys, "remora's HTTP endpoint").withFallback(system);
  }

  /**
   * Opens the endpoint of an actor system; idempotent. It is closed when the system ends.
   *
   * @return the endpoint's address; fails if the port cannot be opened
   */
  public static CompletionStage<InetSocketAddress> start(ActorSystem<?> system) {
    return AkkaManagement.get(requireNonNull(system, "system"))
        .start()
        .thenApply(
            uri -> {
              InetSocketAddress address = address(uri);
              log.info(
                  "Metrics and health at http://{}:{}/metrics",
                  address.getHostString(),
                  address.getPort());
              return address;
            });
  }

  private static InetSocketAddress address(Uri uri) {
    return new InetSocketAddress(uri.getHost().address(), uri.getPort());
  }
}
