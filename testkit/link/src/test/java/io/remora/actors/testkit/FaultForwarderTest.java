// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.testkit;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.actors.testkit.FaultForwarder.Direction;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.time.Duration;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("critical")
@Timeout(value = 60, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class FaultForwarderTest {

  private static final int BYTES = 4 * 1024 * 1024; // 64 pieces at least
  private static final Duration DELAY = Duration.ofSeconds(1);

  @Test
  void delayedPiecesTravelAtTheSameTimeAndInOrder() throws Exception {
    byte[] sent = new byte[BYTES];
    new Random(1).nextBytes(sent);
    try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
        FaultForwarder forwarder = forwarderTo(server)) {
      forwarder.delay(DELAY);
      CompletableFuture<byte[]> received = CompletableFuture.supplyAsync(() -> readAll(server));
      long begin = System.nanoTime();
      try (Socket socket = connected(forwarder)) {
        socket.getOutputStream().write(sent);
        socket.shutdownOutput();
        assertThat(received.get()).isEqualTo(sent);
      }
      Duration taken = Duration.ofNanos(System.nanoTime() - begin);

      assertThat(taken).isGreaterThanOrEqualTo(DELAY);
      // One after the other they would take 64 delays.
      assertThat(taken).isLessThan(DELAY.multipliedBy(32));
      assertThat(forwarder.passed(Direction.UP)).isEqualTo(BYTES);
    }
  }

  @Test
  void healingEndsADelay() throws Exception {
    try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
        FaultForwarder forwarder = forwarderTo(server)) {
      forwarder.delay(Duration.ofDays(1));
      CompletableFuture<byte[]> received = CompletableFuture.supplyAsync(() -> readAll(server));
      try (Socket socket = connected(forwarder)) {
        socket.getOutputStream().write(7);
        socket.shutdownOutput();
        forwarder.heal();
        assertThat(received.get()).containsExactly(7);
      }
    }
  }

  private static FaultForwarder forwarderTo(ServerSocket server) {
    return new FaultForwarder(
        new InetSocketAddress(server.getInetAddress(), server.getLocalPort()));
  }

  private static Socket connected(FaultForwarder forwarder) throws IOException {
    return new Socket(forwarder.address().getAddress(), forwarder.address().getPort());
  }

  private static byte[] readAll(ServerSocket server) {
    try (Socket socket = server.accept()) {
      return socket.getInputStream().readAllBytes();
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }
}
