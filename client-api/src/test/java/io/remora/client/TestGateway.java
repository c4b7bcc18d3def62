// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.RemoraCluster;
import io.remora.gateway.Gateway;
import io.remora.gateway.GatewaySettings;
import java.util.concurrent.TimeUnit;

/**
 * A real gateway in a cluster of its own.
 *
 * @param cluster the cluster
 * @param gateway the gateway, on a free port
 */
record TestGateway(RemoraCluster cluster, Gateway gateway) implements AutoCloseable {

  private static final long LIMIT_SECONDS = 60;

  /** Starts a gateway with these settings laid over the configuration. */
  static TestGateway start(String settings) throws Exception {
    Config config =
        ConfigFactory.parseString("remora.gateway.port = 0\n" + settings)
            .withFallback(ConfigFactory.load())
            .resolve();
    RemoraCluster cluster = RemoraCluster.acquire(config);
    try {
      return new TestGateway(
          cluster,
          Gateway.start(cluster.system(), GatewaySettings.from(config))
              .toCompletableFuture()
              .get(LIMIT_SECONDS, TimeUnit.SECONDS));
    } catch (Exception e) {
      cluster.release();
      throw e;
    }
  }

  int port() {
    return gateway.address().getPort();
  }

  String address() {
    return "127.0.0.1:" + port();
  }

  @Override
  public void close() throws Exception {
    gateway.stop().toCompletableFuture().get(LIMIT_SECONDS, TimeUnit.SECONDS);
    cluster.release();
  }
}
