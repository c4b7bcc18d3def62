// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import static io.remora.gateway.TestGateway.get;
import static java.nio.charset.StandardCharsets.US_ASCII;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import akka.NotUsed;
import akka.stream.javadsl.Sink;
import akka.stream.javadsl.Source;
import io.remora.gateway.internal.health.HealthCheckRequest;
import io.remora.gateway.internal.health.HealthClient;
import io.remora.gateway.v1.ClientFrame;
import io.remora.gateway.v1.ListRequest;
import io.remora.gateway.v1.MachinesClient;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A real gateway, and peers that are not Remora programs. */
@Tag("full")
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class GatewayConnectionsTest {

  private static final String TOKEN = "open-sesame";
  private static final int LIMIT_MILLIS = 60_000;
  private static final Duration LIMIT = Duration.ofMillis(LIMIT_MILLIS);

  private final List<Socket> strangers = new ArrayList<>();
  private TestGateway gateway;

  /** The first call in a JVM takes longer than these tests allow for a handshake. */
  @BeforeAll
  static void loadWhatCallsNeed() throws Exception {
    try (TestGateway warm = TestGateway.start("remora.gateway.token = " + TOKEN)) {
      assertThat(call(warm.machines())).isZero();
    }
  }

  private void start(String settings) throws Exception {
    gateway = TestGateway.start("remora.gateway.token = " + TOKEN + "\n" + settings);
  }

  @AfterEach
  void stop() throws Exception {
    for (Socket stranger : strangers) {
      stranger.close();
    }
    gateway.close();
  }

  @Test
  void servesProgramsWhileStrangersHoldMoreConnectionsThanItTakes() throws Exception {
    start("remora.gateway { max-connections-per-peer = 100000, handshake-timeout = 1 hour }");
    for (int i = 0; i < 1_100; i++) {
      stranger("");
    }

    assertThat(call(gateway.machines())).isZero();

    // The oldest connections make room.
    assertEnds(strangers.get(0));
  }

  @Test
  void endsConnectionsThatMakeNoCallWhateverTheySend() throws Exception {
    start("remora.gateway.handshake-timeout = 8 s");
    MachinesClient program = gateway.machines();
    assertThat(call(program)).isZero();
    HealthClient prober = HealthClient.create(gateway.client(), gateway.system());
    get(prober.check(HealthCheckRequest.getDefaultInstance()));
    assertThat(gateway.connections()).isEqualTo(2);
    Socket silent = stranger("");
    Socket halfPreface = stranger("PRI * HTTP/2.0\r\n\r\nS");
    Socket wholePreface = stranger("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    Socket halfHead = stranger("POST /remora.gateway.v1.Machines/List HTTP/1.1\r\nHost: here\r\n");
    Socket slow = stranger("GET /");

    await()
        .pollInterval(Duration.ofMillis(100))
        .atMost(LIMIT)
        .until(() -> isRefused(slow)); // a byte at a time

    assertEnds(silent);
    assertEnds(halfPreface);
    assertEnds(wholePreface);
    assertEnds(halfHead);
    // The prober's connection has ended too; the program's has not.
    await().atMost(LIMIT).until(() -> gateway.connections() == 1);
    assertThat(call(program)).isZero();
    get(prober.check(HealthCheckRequest.getDefaultInstance()));
  }

  @Test
  void takesSoManyConnectionsOfAPeer() throws Exception {
    start("remora.gateway { max-connections-per-peer = 3, handshake-timeout = 1 hour }");
    for (int i = 0; i < 3; i++) {
      stranger("");
    }
    await().atMost(LIMIT).until(() -> gateway.connections() == 3);

    assertEnds(stranger(""));

    strangers.get(0).close();
    await().atMost(LIMIT).until(() -> gateway.connections() == 2);
    assertThat(call(gateway.machines())).isZero();
  }

  @Test
  void endsASessionThatDoesNotSayHello() throws Exception {
    start("remora.gateway.handshake-timeout = 1 s");

    assertThatThrownBy(
            () ->
                get(
                    gateway
                        .sessions()
                        .connect()
                        .addHeader("authorization", "Bearer " + TOKEN)
                        .invoke(
                            Source.<ClientFrame>maybe()
                                .mapMaterializedValue(unused -> NotUsed.notUsed()))
                        .runWith(Sink.ignore(), gateway.system())))
        .hasMessageContaining("DEADLINE_EXCEEDED")
        .hasMessageContaining("remora.gateway.handshake-timeout");
  }

  private static int call(MachinesClient machines) throws Exception {
    return get(machines
            .list()
            .addHeader("authorization", "Bearer " + TOKEN)
            .invoke(ListRequest.getDefaultInstance()))
        .getMachinesCount();
  }

  private Socket stranger(String says) throws IOException {
    Socket socket = new Socket(InetAddress.getLoopbackAddress(), gateway.port());
    socket.setSoTimeout(LIMIT_MILLIS);
    strangers.add(socket);
    socket.getOutputStream().write(says.getBytes(US_ASCII));
    return socket;
  }

  private static boolean isRefused(Socket socket) {
    try {
      socket.getOutputStream().write('a');
      return false;
    } catch (IOException e) {
      return true;
    }
  }

  /** Whatever the gateway sent before, it closes this connection. */
  private static void assertEnds(Socket socket) throws IOException {
    try {
      InputStream in = socket.getInputStream();
      while (in.read() >= 0) {
        // Skips HTTP/2's settings.
      }
    } catch (SocketTimeoutException e) {
      throw new AssertionError("the connection is still open", e);
    } catch (IOException e) {
      assertThat(e).hasMessageContaining("reset");
    }
  }
}
