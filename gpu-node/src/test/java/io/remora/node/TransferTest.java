// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.proto.Fetch;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.core.WireFormat;
import io.remora.provider.LaunchToken;
import io.remora.runtime.BatchExecutor;
import io.remora.runtime.RemoraException;
import io.remora.runtime.TensorTransfers;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Tensors that other nodes fetch over a real connection. */
@Tag("fast")
@Timeout(60)
class TransferTest {

  private static final LaunchToken TOKEN = LaunchToken.random();
  private static final String TICKET = "0123456789abcdef0123456789abcdef";
  private static final String WRONG = "0123456789abcdef0123456789abcdee";
  private static final int BYTES = 3_000_000;
  private static final Config CONFIG =
      ConfigFactory.parseString(
              "remora.link { heartbeat-interval = 200ms, heartbeat-timeout = 5s }")
          .withFallback(ConfigFactory.load());

  private static EmbeddedNode node;
  private static BatchExecutor executor;

  private final TransferClient client =
      new TransferClient(LinkSettings.from(CONFIG), NodeSettings.from(CONFIG).transfer());

  @BeforeAll
  static void start() {
    node =
        EmbeddedNode.start(
            NodeOptions.defaults(TOKEN)
                .withDevices(DeviceChoice.CPU, Optional.empty(), Optional.empty()),
            CONFIG);
    executor = BatchExecutor.create(List.of("cpu"), List.of());
  }

  @AfterAll
  static void stop() {
    executor.close();
    node.close();
  }

  @AfterEach
  void waitForEver() {
    TransferClient.giveUpWhen(() -> false);
  }

  @Test
  void fetchesWhatIsHeldOnce() throws Exception {
    hold(TICKET);
    ByteBuffer received = ByteBuffer.allocateDirect(BYTES);

    client.fetch(address(), TICKET, received);

    assertThat(received.remaining()).isEqualTo(BYTES);
    for (int i = 0; i < BYTES; i++) {
      if (received.get(i) != (byte) (i * 7)) {
        assertThat(received.get(i)).as("byte %d", i).isEqualTo((byte) (i * 7));
      }
    }
    assertThatThrownBy(() -> client.fetch(address(), TICKET, received))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("holds nothing under the ticket");
  }

  @Test
  void refusesAWrongTicketAndNothingElse() throws Exception {
    hold(TICKET);
    try (Owner stranger = Owner.dial(node.address())) {
      stranger.send(
          FrameType.FETCH, 0, Fetch.newBuilder().setTicket(WRONG).setBytes(BYTES).build());

      Refused refused = stranger.next(FrameType.REFUSED).as(Refused.parser());
      assertThat(refused.getReason()).isEqualTo(Reason.REASON_TICKET);
      assertThat(refused.getMessage()).doesNotContain(WRONG).doesNotContain(TICKET);
      stranger.awaitClosed();
    }
    client.fetch(address(), TICKET, ByteBuffer.allocateDirect(BYTES));
  }

  @Test
  void aTicketOpensNothingElse() throws Exception {
    hold(TICKET);
    try (Owner stranger = Owner.dial(node.address())) {
      stranger.send(FrameType.FETCH, 0, Fetch.newBuilder().setTicket(WRONG).build());
      stranger.send(FrameType.HELLO, 0, Owner.hello(TOKEN));
      stranger.next(FrameType.REFUSED);
      stranger.awaitClosed();
      assertThat(stranger.nothingReceived()).isTrue();
    }
    client.fetch(address(), TICKET, ByteBuffer.allocateDirect(BYTES));
  }

  @Test
  void refusesAnotherNumberOfBytes() {
    hold(TICKET);
    assertThatThrownBy(() -> client.fetch(address(), TICKET, ByteBuffer.allocateDirect(BYTES - 1)))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("the ticket is for 3000000 bytes, not 2999999");
  }

  @Test
  void refusesATicketThatIsOutOfDate() throws Exception {
    NodeSettings.Transfer settings = NodeSettings.from(CONFIG).transfer();
    configure(settings, Duration.ofMillis(1));
    try {
      hold(TICKET);
    } finally {
      configure(settings, settings.ticketLifetime());
    }
    Thread.sleep(2); // longer than the ticket is valid
    assertThatThrownBy(() -> client.fetch(address(), TICKET, ByteBuffer.allocateDirect(BYTES)))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("out of date");
  }

  @Test
  void saysThatANodeCannotBeReached() throws Exception {
    int closed;
    try (ServerSocket socket = silent()) {
      closed = socket.getLocalPort();
    }
    for (String address : List.of("127.0.0.1:" + closed, "192.0.2.1:9", "nonsense", "a:b", "")) {
      assertThatThrownBy(() -> client.fetch(address, TICKET, ByteBuffer.allocateDirect(10)))
          .as(address)
          .isInstanceOf(IOException.class)
          .hasMessageContaining("cannot reach the other one at " + address);
    }
  }

  @Test
  void aNodeThatSaysNothingIsGivenUp() throws Exception {
    try (ServerSocket silent = silent()) {
      assertThatThrownBy(
              () ->
                  client.fetch(
                      "127.0.0.1:" + silent.getLocalPort(), TICKET, ByteBuffer.allocateDirect(10)))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("ended after 0 of 10 bytes")
          .hasMessageContaining("nothing was heard");
    }
  }

  @Test
  void aSessionThatNobodyWantsAnyMoreWaitsNoLonger() throws Exception {
    try (ServerSocket silent = silent()) {
      TransferClient.giveUpWhen(() -> true);
      assertThatThrownBy(
              () ->
                  client.fetch(
                      "127.0.0.1:" + silent.getLocalPort(), TICKET, ByteBuffer.allocateDirect(10)))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("nobody waits");
    }
  }

  private void configure(NodeSettings.Transfer settings, Duration lifetime) {
    TensorTransfers.configure(client, settings.maxTickets(), settings.maxBytes(), lifetime);
  }

  private static String address() {
    return LinkServer.text(node.address());
  }

  private static ServerSocket silent() throws IOException {
    return new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
  }

  /** Runs a batch that makes a tensor of {@link #BYTES} bytes, and holds it under the ticket. */
  private static void hold(String ticket) {
    ByteBuffer batch = ByteBuffer.allocateDirect(BYTES + 256).order(ByteOrder.LITTLE_ENDIAN);
    batch.put((byte) 0xB7).put((byte) WireFormat.WIRE_VERSION);
    // kWrite: a new storage, on device 0, of so many bytes; from byte 0 on, so many bytes
    batch.put((byte) 6).put((byte) 1).put((byte) 2).put((byte) 0);
    varint(batch, BYTES);
    batch.put((byte) 0);
    varint(batch, BYTES);
    for (int i = 0; i < BYTES; i++) {
      batch.put((byte) (i * 7));
    }
    // kQuestion 1: kHoldTransfer, the ticket, not temporary, a tensor of uint8[n] on that storage
    batch.put((byte) 10).put((byte) 1).put((byte) 8).put((byte) ticket.length());
    batch.put(ticket.getBytes(StandardCharsets.UTF_8)).put((byte) 0);
    batch.put((byte) 0x80).put((byte) 0).put((byte) 1);
    varint(batch, BYTES);
    batch.put((byte) 0);
    executor.execute(1, batch.flip()).close();
  }

  private static void varint(ByteBuffer target, int value) {
    int rest = value;
    for (; rest >= 0x80; rest >>>= 7) {
      target.put((byte) (rest | 0x80));
    }
    target.put((byte) rest);
  }
}
