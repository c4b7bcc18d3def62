// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import akka.NotUsed;
import akka.actor.ActorSystem;
import akka.actor.typed.javadsl.Adapter;
import akka.grpc.GrpcClientSettings;
import akka.http.javadsl.Http;
import akka.http.javadsl.ServerBinding;
import akka.stream.javadsl.Source;
import akka.testkit.javadsl.TestKit;
import com.google.protobuf.ByteString;
import com.typesafe.config.ConfigFactory;
import io.remora.gateway.v1.ClientFrame;
import io.remora.gateway.v1.Executed;
import io.remora.gateway.v1.ServerFrame;
import io.remora.gateway.v1.SessionsClient;
import io.remora.gateway.v1.SessionsHandlerFactory;
import io.remora.gateway.v1.Welcome;
import io.remora.runtime.Batch;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** A link to gateways that break the protocol's rules. */
@Tag("fast")
class GatewayLinkTest {

  private static final Duration LIMIT = Duration.ofSeconds(30);

  private final ActorSystem system =
      ActorSystem.create(
          "gateway-link-test",
          ConfigFactory.parseString("akka.http.server.enable-http2 = on")
              .withFallback(ConfigFactory.load()));
  private final CompletableFuture<RemoraException> lost = new CompletableFuture<>();
  private final AtomicInteger streams = new AtomicInteger();

  @AfterEach
  void stop() {
    TestKit.shutdownActorSystem(system);
  }

  @Test
  void aReportOfABatchThatIsNotTheNextEndsTheSession() throws Exception {
    GatewayLink link =
        open(
            requests ->
                welcome(0).concat(requests.filter(ClientFrame::hasBatches).map(b -> executed(7))));
    CompletableFuture<Void> released = new CompletableFuture<>();
    link.submit(batch(1, released));

    assertThat(lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isExactlyInstanceOf(ProtocolException.class)
        .hasMessageContaining(
            "reported batch 7, but batch 0 was acknowledged and batch 1 sent last");
    released.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    assertThat(streams).hasValue(1);
  }

  @Test
  void aGatewayThatHasReceivedABatchThatWasNeverSentEndsTheSession() throws Exception {
    // The first stream breaks after its Welcome.
    GatewayLink unused =
        open(requests -> streams.get() == 1 ? welcome(0) : welcome(5).concat(Source.maybe()));

    assertThat(lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isExactlyInstanceOf(ProtocolException.class)
        .hasMessageContaining(
            "has received batch 5 last, but batch 0 was acknowledged and batch 0 sent last");
    assertThat(streams).hasValue(2);
  }

  private GatewayLink open(
      Function<Source<ClientFrame, NotUsed>, Source<ServerFrame, NotUsed>> gateway)
      throws Exception {
    ServerBinding server =
        Http.get(system)
            .newServerAt("127.0.0.1", 0)
            .bind(
                SessionsHandlerFactory.create(
                    requests -> {
                      streams.incrementAndGet();
                      return gateway.apply(requests);
                    },
                    system))
            .toCompletableFuture()
            .get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    int port = server.localAddress().getPort();
    SessionsClient client =
        SessionsClient.create(
            GrpcClientSettings.connectToServiceAt("127.0.0.1", port, system).withTls(false),
            system);
    GatewayLink link =
        new GatewayLink(
            "m",
            GatewayAddress.parse("127.0.0.1:" + port, null),
            client,
            Adapter.toTyped(system),
            new Program());
    assertThat(link.open(LIMIT).getName()).isEmpty();
    return link;
  }

  private static Source<ServerFrame, NotUsed> welcome(long lastBatch) {
    return Source.single(
        ServerFrame.newBuilder()
            .setWelcome(
                Welcome.newBuilder()
                    .setSession(1)
                    .setLastBatch(lastBatch)
                    .setMaxInFlightBytes(1 << 20)
                    .setLeaseMillis(LIMIT.toMillis())
                    .setMaxUnreceivedBytes(1 << 20))
            .build());
  }

  private static ServerFrame executed(long sequence) {
    return ServerFrame.newBuilder()
        .setIndex(1)
        .setExecuted(Executed.newBuilder().setSequence(sequence).addReports(ByteString.EMPTY))
        .build();
  }

  private static Batch batch(long sequence, CompletableFuture<Void> released) {
    return new Batch(
        sequence, ByteBuffer.allocate(8), List.of(), new long[0], () -> released.complete(null));
  }

  private final class Program implements SessionListener {

    @Override
    public void onExecuted(long sequence, ByteBuffer report) {
      throw new AssertionError("batch " + sequence + " counts as executed");
    }

    @Override
    public void onLost(RemoraException cause) {
      lost.complete(cause);
    }
  }
}
