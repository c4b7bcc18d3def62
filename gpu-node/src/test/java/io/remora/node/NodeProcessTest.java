// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import com.google.protobuf.ByteString;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Notice;
import io.remora.actors.link.proto.OpenSession;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.SocketException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.List;
import java.util.Random;
import java.util.zip.CRC32C;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The node as a process, and which links it accepts. */
@Timeout(120)
class NodeProcessTest {

  private static final LaunchToken TOKEN = LaunchToken.random();
  private static final Duration LIMIT = Duration.ofSeconds(60);

  private static NodeProcess node;
  private static InetSocketAddress address;
  private static Owner first;

  @BeforeAll
  static void start() throws Exception {
    node =
        NodeProcess.start(
            TOKEN, "", "--device=cpu", "--gpu-count=2", "--gpu-type=H100", "--compute-threads=1");
    address = node.address();
    first = Owner.connect(address, TOKEN);
  }

  @AfterAll
  static void stop() {
    first.close();
    node.close();
  }

  @Test
  @Tag("fast")
  void announcesItselfInOneLineAndLogsItsChoice() throws Exception {
    assertThat(node.output())
        .containsExactly("remora-node listening on 127.0.0.1:" + address.getPort());
    assertLogs("libtorch 2.10.0 from");
    assertLogs("2 x simulated H100 on cpu (--device cpu was given); 1 compute threads");
  }

  @Test
  @Tag("fast")
  void welcomesItsOwnerWithItsDevices() throws Exception {
    try (Owner owner = Owner.dial(address)) {
      owner.send(FrameType.HELLO, 0, Owner.hello(first.issueToken()));

      Welcome welcome = owner.welcome();

      assertThat(welcome.getLibtorchVersion()).startsWith("2.10.");
      assertThat(welcome.getComputeThreads()).isEqualTo(1);
      assertThat(welcome.getNodeId()).isNotEmpty();
      assertThat(welcome.getDevicesList())
          .hasSize(2)
          .allSatisfy(
              device -> {
                assertThat(device.getName()).isEqualTo("simulated H100");
                assertThat(device.getKind()).isEqualTo("cpu");
              });
    }
  }

  @Test
  @Tag("fast")
  void refusesAnotherTokenAndClosesTheConnection() throws Exception {
    try (Owner owner = Owner.dial(address)) {
      owner.send(FrameType.HELLO, 0, Owner.hello(LaunchToken.random()));

      Refused refused = owner.next(FrameType.REFUSED).as(Refused.parser());

      assertThat(refused.getReason()).isEqualTo(Reason.REASON_TOKEN);
      assertThat(refused.getMessage()).contains("REMORA_NODE_TOKEN");
      owner.awaitClosed();
    }
    assertLogsRefusal("the token is not this node's");
  }

  @Test
  @Tag("fast")
  void refusesATokenThatWasUsed() throws Exception {
    LaunchToken token = first.issueToken();
    try (Owner guest = Owner.connect(address, token)) {
      for (LaunchToken used : List.of(TOKEN, token)) {
        try (Owner replayed = Owner.dial(address)) {
          replayed.send(FrameType.HELLO, 0, Owner.hello(used));

          Refused refused = replayed.next(FrameType.REFUSED).as(Refused.parser());

          assertThat(refused.getReason()).isEqualTo(Reason.REASON_TOKEN);
          assertThat(refused.getMessage())
              .contains("was used already")
              .doesNotContain(used.value());
          replayed.awaitClosed();
        }
      }
      guest.openSession(1);
    }
    assertLogsRefusal("the token was used already");
  }

  @Test
  @Tag("fast")
  void refusesAnotherSecret() throws Exception {
    try (Owner guest = first.another();
        Owner thief = Owner.dial(address)) {
      thief.hello(
          guest.helloAgain().toBuilder().setSecret(ByteString.copyFrom(new byte[32])).build());

      Refused refused = thief.next(FrameType.REFUSED).as(Refused.parser());

      assertThat(refused.getReason()).isEqualTo(Reason.REASON_TOKEN);
      thief.awaitClosed();
      guest.openSession(1);
    }
    assertLogsRefusal("the secret is not this link's");
  }

  @Test
  @Tag("fast")
  void refusesAnotherProtocolVersion() throws Exception {
    try (Owner owner = Owner.dial(address)) {
      owner.send(
          FrameType.HELLO,
          0,
          Owner.hello(first.issueToken()).toBuilder().setProtocolVersion(99).build());

      Refused refused = owner.next(FrameType.REFUSED).as(Refused.parser());

      assertThat(refused.getReason()).isEqualTo(Reason.REASON_PROTOCOL_VERSION);
      assertThat(refused.getMessage()).contains("99");
    }
    assertLogsRefusal("the node speaks link protocol version " + FrameHeader.PROTOCOL_VERSION);
  }

  @Test
  @Tag("fast")
  void refusesFramesOfAnotherProtocolVersion() throws Exception {
    send(emptyFrame(FrameType.BATCH, 99));

    assertLogs(
        "ended before its handshake: the peer speaks link protocol version 99, this side "
            + FrameHeader.PROTOCOL_VERSION
            + ": use the same Remora version on both");
  }

  @Test
  @Tag("fast")
  void refusesAnotherLibtorch() throws Exception {
    try (Owner owner = Owner.dial(address)) {
      owner.send(
          FrameType.HELLO,
          0,
          Owner.hello(first.issueToken()).toBuilder().setLibtorchVersion("2.7.0").build());

      Refused refused = owner.next(FrameType.REFUSED).as(Refused.parser());

      assertThat(refused.getReason()).isEqualTo(Reason.REASON_LIBTORCH_VERSION);
      assertThat(refused.getMessage()).contains("2.7.0").contains("--torch-home");
    }
    assertLogsRefusal("the program 2.7.0");
  }

  @Test
  @Tag("fast")
  void doesNothingForSomebodyWhoSkipsTheHandshake() throws Exception {
    try (Owner owner = Owner.dial(address)) {
      owner.send(FrameType.OPEN_SESSION, 1, OpenSession.getDefaultInstance());

      Goodbye goodbye = owner.next(FrameType.GOODBYE).as(Goodbye.parser());

      assertThat(goodbye.getReason()).isEqualTo(Reason.REASON_MALFORMED);
      assertThat(goodbye.getMessage()).contains("must be HELLO");
      owner.awaitClosed();
    }
  }

  @Test
  @Tag("fast")
  void survivesGarbage() throws Exception {
    Random random = new Random(42);
    for (int i = 0; i < 20; i++) {
      byte[] garbage = new byte[random.nextInt(5000)];
      random.nextBytes(garbage);
      send(garbage);
    }
    send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".getBytes(UTF_8));

    try (Owner owner = first.another()) {
      owner.openSession(7);
    }
  }

  @Test
  @Tag("fast")
  void endsSoonAfterItsStandardInput() throws Exception {
    try (NodeProcess child = NodeProcess.start(TOKEN, "", "--device=cpu", "--exit-with-stdin")) {
      child.address();

      child.closeStandardInput();

      assertThat(child.exitCode(LIMIT)).isZero();
    }
  }

  @Test
  @Tag("fast")
  void outlivesItsStandardInputOtherwise() throws Exception {
    node.closeStandardInput();

    try (Owner owner = first.another()) {
      owner.openSession(1);
    }
    assertThat(node.process().isAlive()).isTrue();
  }

  @Test
  @Tag("full")
  void endsWhenNoOwnerEverConnects() throws Exception {
    try (NodeProcess child =
        NodeProcess.start(TOKEN, "remora.node.orphan-timeout = 1s", "--device=cpu")) {
      assertThat(child.exitCode(LIMIT)).isZero();
      assertThat(child.log()).contains("no owner has connected").contains("orphan-timeout");
    }
  }

  @Test
  @Tag("full")
  void endsSomeTimeAfterItsOwnerIsGoneButNotBefore() throws Exception {
    try (NodeProcess child =
        NodeProcess.start(TOKEN, "remora.node.orphan-timeout = 5s", "--device=cpu")) {
      long gone;
      try (Owner owner = Owner.connect(child.address(), TOKEN)) {
        Thread.sleep(5500);
        assertThat(child.process().isAlive()).isTrue();
        owner.openSession(1);
        gone = System.nanoTime();
      }

      assertThat(child.exitCode(LIMIT)).isZero();
      assertThat(Duration.ofNanos(System.nanoTime() - gone)).isGreaterThan(Duration.ofSeconds(4));
      assertThat(child.log()).contains("the owner's connection is gone");
    }
  }

  @Test
  @Tag("fast")
  void endsOnATerminationSignal() throws Exception {
    try (NodeProcess child = NodeProcess.start(TOKEN, "", "--device=cpu")) {
      try (Owner owner = Owner.connect(child.address(), TOKEN)) {
        child.process().destroy();

        Goodbye goodbye = owner.next(FrameType.GOODBYE).as(Goodbye.parser());
        assertThat(goodbye.getReason()).isEqualTo(Reason.REASON_SHUTTING_DOWN);
      }
      assertThat(child.exitCode(LIMIT)).isEqualTo(128 + 15);
    }
  }

  @Test
  @Tag("fast")
  void waitsAfterATerminationSignalUntilTheMachineThatWantsNoticeHasMoved() throws Exception {
    String grace = "remora.node.notice-grace = 1 h";
    try (NodeProcess child = NodeProcess.start(TOKEN, grace, "--device=cpu")) {
      try (Owner owner = Owner.dial(child.address())) {
        owner.hello(Owner.hello(TOKEN).toBuilder().setTakesNotice(true).build());
        owner.welcome();
        // Process.destroy would close the streams, too.
        assertThat(child.process().toHandle().destroy()).isTrue();

        Notice notice = owner.next(FrameType.NOTICE).as(Notice.parser());
        assertThat(notice.getReason()).contains("signal to end");
        assertThat(notice.getWithinMillis()).isBetween(1L, 3_600_000L);
        owner.openSession(1); // the node still works

        owner.send(
            FrameType.GOODBYE, 0, Goodbye.newBuilder().setReason(Reason.REASON_CLOSED).build());
        assertThat(child.exitCode(LIMIT)).isEqualTo(128 + 15);
      }
      assertThat(child.log()).contains("1 machine(s) were told");
    }
  }

  @Test
  @Tag("full")
  void endsAfterATerminationSignalWhenTheMachineDeclinesOrTheGraceIsOver() throws Exception {
    for (boolean declines : new boolean[] {true, false}) {
      String grace = "remora.node.notice-grace = " + (declines ? "1 h" : "1 s");
      try (NodeProcess child = NodeProcess.start(TOKEN, grace, "--device=cpu");
          Owner owner = Owner.dial(child.address())) {
        owner.hello(Owner.hello(TOKEN).toBuilder().setTakesNotice(true).build());
        owner.welcome();
        // Process.destroy would close the streams, too.
        assertThat(child.process().toHandle().destroy()).isTrue();
        assertThat(owner.next(FrameType.NOTICE).header().session()).isZero();
        if (declines) {
          owner.send(FrameType.NOTICE_DECLINED, 0, Notice.getDefaultInstance());
        }
        assertThat(child.exitCode(LIMIT)).isEqualTo(128 + 15);
      }
    }
  }

  @Test
  @Tag("fast")
  void saysThatItsPortIsTaken() throws Exception {
    String taken = "127.0.0.1:" + address.getPort();
    try (NodeProcess second = NodeProcess.start(TOKEN, "", "--device=cpu", "--listen", taken)) {
      assertThat(second.exitCode(LIMIT)).isEqualTo(5);
      assertThat(second.log()).contains(taken).contains("--listen");
      assertThat(second.output()).isEmpty();
    }
  }

  private static void assertLogsRefusal(String reason) {
    assertLogs("Refused a connection from 127.0.0.1", reason);
  }

  /** Asserts that a line with all these parts is logged soon, and that no line has the token. */
  private static void assertLogs(String... parts) {
    await()
        .atMost(LIMIT)
        .untilAsserted(
            () ->
                assertThat(node.log().lines())
                    .anySatisfy(line -> assertThat(line).contains(parts)));
    assertThat(node.log()).doesNotContain(TOKEN.value());
  }

  private static byte[] emptyFrame(FrameType type, int version) {
    ByteBuffer frame = ByteBuffer.allocate(FrameHeader.BYTES).order(ByteOrder.LITTLE_ENDIAN);
    frame.put(4, type.code()).putShort(6, (short) version);
    CRC32C crc = new CRC32C();
    crc.update(frame.array(), 0, FrameHeader.BYTES - Integer.BYTES);
    return frame.putInt(FrameHeader.BYTES - Integer.BYTES, (int) crc.getValue()).array();
  }

  private static void send(byte[] bytes) throws Exception {
    try (Socket socket = new Socket(address.getAddress(), address.getPort())) {
      socket.getOutputStream().write(bytes);
      socket.getOutputStream().flush();
      socket.shutdownOutput();
      socket.setSoTimeout((int) LIMIT.toMillis());
      // When the node closes the connection, it has handled the bytes.
      try {
        socket.getInputStream().readAllBytes();
      } catch (SocketException e) {
        // A reset also ends the connection.
      }
    }
  }
}
