// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.actor.testkit.typed.javadsl.ActorTestKit;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkPair;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.Welcome;
import io.remora.actors.node.NodeLink;
import io.remora.provider.LaunchToken;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32C;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Which links the node accepts and which it refuses, as reported to the machine. Other tests cover
 * sessions.
 */
@Tag("fast")
@Timeout(60)
class NodeLinkTest {

  private static final ActorTestKit KIT =
      ActorTestKit.create(
          "links",
          ConfigFactory.parseString("akka.actor.provider = local")
              .withFallback(ConfigFactory.load()));

  private final BlockingQueue<NodeLink.Event> events = new LinkedBlockingQueue<>();
  private final TestNode node = new TestNode();

  @AfterAll
  static void shutdown() {
    KIT.shutdownTestKit();
  }

  @AfterEach
  void stop() {
    node.closeSockets();
  }

  @Test
  void getsTokensForFurtherLinks() throws Exception {
    ActorRef<NodeLink.Command> link = link();
    next(NodeLink.Up.class);

    TestProbe<StatusReply<LaunchToken>> first = issueToken(link);
    TestProbe<StatusReply<LaunchToken>> second = issueToken(link);

    String one = first.receiveMessage(LIMIT).getValue().value();
    String other = second.receiveMessage(LIMIT).getValue().value();
    assertThat(node.issued).containsExactly(one, other);
  }

  @Test
  void asksForATokenAgainOverTheNextConnection() throws Exception {
    ActorRef<NodeLink.Command> link = link();
    next(NodeLink.Up.class);
    node.issues = false;
    TestProbe<StatusReply<LaunchToken>> reply = issueToken(link);
    await().atMost(LIMIT).until(() -> node.heard.contains("token"));
    node.issues = true;

    node.connection.close();

    String token = reply.receiveMessage(LIMIT).getValue().value();
    assertThat(node.issued).containsExactly(token);
    next(NodeLink.Broken.class);
    next(NodeLink.Restored.class);
  }

  @Test
  void saysThatThereIsNoTokenWhenTheLinkIsLost() throws Exception {
    ActorRef<NodeLink.Command> link = link(node.address(), "give-up-after = 1 s");
    next(NodeLink.Up.class);
    node.issues = false;
    TestProbe<StatusReply<LaunchToken>> reply = issueToken(link);

    node.closeSockets();

    assertThat(reply.receiveMessage(LIMIT).getError())
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("remora.link.give-up-after");
  }

  @ParameterizedTest
  @CsvSource({
    "REASON_TOKEN, io.remora.runtime.AuthenticationException",
    "REASON_PROTOCOL_VERSION, io.remora.runtime.ProtocolException",
    "REASON_LIBTORCH_VERSION, io.remora.runtime.ProtocolException",
    "REASON_BUSY, io.remora.runtime.ProviderException"
  })
  void saysWhyTheNodeRefusesIt(Reason reason, Class<? extends RemoraException> expected)
      throws Exception {
    node.refusal = Refused.newBuilder().setReason(reason).setMessage("because of this").build();

    link();

    assertThat(next(NodeLink.Lost.class).cause())
        .isExactlyInstanceOf(expected)
        .hasMessageContaining("refused the link: because of this");
    assertThat(node.connections).as("it does not try again").hasValue(1);
  }

  @Test
  void isLostAtOnceWhenTheNodeDoesNotTakeItsSecretAnyMore() throws Exception {
    link();
    next(NodeLink.Up.class);
    node.refusal =
        Refused.newBuilder()
            .setReason(Reason.REASON_UNKNOWN_LINK)
            .setMessage("remora.node.session-lease is over")
            .build();

    node.connection.close();

    next(NodeLink.Broken.class);
    assertThat(next(NodeLink.Lost.class).cause())
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("remora.node.session-lease is over");
  }

  @Test
  void namesBothVersionsWhenTheNodesFramesAreOfAnother() throws Exception {
    try (ServerSocket other = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      link(new InetSocketAddress(other.getInetAddress(), other.getLocalPort()));
      try (Socket socket = other.accept()) {
        socket.getOutputStream().write(welcomeOfVersion(99));

        assertThat(next(NodeLink.Lost.class).cause())
            .isInstanceOf(ProtocolException.class)
            .hasMessageContaining("version 99")
            .hasMessageContaining("this side " + FrameHeader.PROTOCOL_VERSION)
            .hasMessageContaining("use the same Remora version");
      }
    }
  }

  private static byte[] welcomeOfVersion(int version) {
    byte[] payload = Welcome.newBuilder().setNodeId("other").build().toByteArray();
    CRC32C crc = new CRC32C();
    crc.update(payload);
    int payloadChecksum = (int) crc.getValue();
    ByteBuffer frame =
        ByteBuffer.allocate(FrameHeader.BYTES + payload.length).order(ByteOrder.LITTLE_ENDIAN);
    frame
        .putInt(payload.length)
        .put(FrameType.WELCOME.code())
        .put((byte) 0)
        .putShort((short) version)
        .putLong(0)
        .putLong(0)
        .putInt(payloadChecksum);
    crc.reset();
    crc.update(frame.array(), 0, frame.position());
    return frame.putInt((int) crc.getValue()).put(payload).array();
  }

  private ActorRef<NodeLink.Command> link() {
    return link(node.address());
  }

  private ActorRef<NodeLink.Command> link(InetSocketAddress address, String... settings) {
    return KIT.spawn(
        NodeLink.create("test", address, node.token(), LinkPair.settings(settings), events::add));
  }

  private static TestProbe<StatusReply<LaunchToken>> issueToken(ActorRef<NodeLink.Command> link) {
    @SuppressWarnings("unchecked")
    Class<StatusReply<LaunchToken>> type =
        (Class<StatusReply<LaunchToken>>) (Class<?>) StatusReply.class;
    TestProbe<StatusReply<LaunchToken>> probe = KIT.createTestProbe(type);
    link.tell(new NodeLink.IssueToken(probe.getRef()));
    return probe;
  }

  private <T extends NodeLink.Event> T next(Class<T> type) throws InterruptedException {
    NodeLink.Event event = events.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
    assertThat(event).isInstanceOf(type);
    return type.cast(event);
  }
}
