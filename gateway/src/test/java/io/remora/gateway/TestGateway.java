// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import akka.actor.typed.ActorSystem;
import akka.grpc.GrpcClientSettings;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.simple.SimpleMeterRegistry;
import io.remora.actors.RemoraCluster;
import io.remora.gateway.v1.MachinesClient;
import io.remora.gateway.v1.SessionsClient;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

/** A real gateway in a cluster of its own, and clients for it. */
final class TestGateway implements AutoCloseable {

  private final RemoraCluster cluster;
  private final Gateway gateway;
  private final MeterRegistry meters = new SimpleMeterRegistry();

  private TestGateway(RemoraCluster cluster, Gateway gateway) {
    this.cluster = cluster;
    this.gateway = gateway;
    gateway.bindTo(meters);
  }

  /** Starts a gateway on a free port, with these settings laid over the configuration. */
  static TestGateway start(String settings) throws Exception {
    Config config =
        ConfigFactory.parseString("remora.gateway.port = 0\n" + settings)
            .withFallback(ConfigFactory.load())
            .resolve();
    RemoraCluster cluster = RemoraCluster.acquire(config);
    try {
      return new TestGateway(
          cluster, get(Gateway.start(cluster.system(), GatewaySettings.from(config))));
    } catch (Exception e) {
      cluster.release();
      throw e;
    }
  }

  static <T> T get(CompletionStage<T> stage) throws Exception {
    return stage.toCompletableFuture().get(60, TimeUnit.SECONDS);
  }

  ActorSystem<?> system() {
    return cluster.system();
  }

  int port() {
    return gateway.address().getPort();
  }

  String address() {
    return "127.0.0.1:" + port();
  }

  /** TCP connections, as the gateway counts them. */
  double connections() {
    return meters.get("remora.gateway.connections").gauge().value();
  }

  GrpcClientSettings client() {
    return GrpcClientSettings.connectToServiceAt("127.0.0.1", port(), system()).withTls(false);
  }

  MachinesClient machines() {
    return MachinesClient.create(client(), system());
  }

  SessionsClient sessions() {
    return SessionsClient.create(client(), system());
  }

  @Override
  public void close() throws Exception {
    get(gateway.stop());
    cluster.release();
  }
}
