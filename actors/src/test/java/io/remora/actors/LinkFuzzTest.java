// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;

import akka.actor.testkit.typed.javadsl.ActorTestKit;
import akka.actor.typed.ActorRef;
import io.remora.actors.link.Damage;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkChannel;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkPair;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.proto.Device;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.actors.link.proto.Welcome;
import io.remora.actors.node.NodeLink;
import io.remora.core.WireFormat;
import io.remora.provider.LaunchToken;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.io.EOFException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * Damaged bytes on a link are still valid, or end it with a ProtocolException. Prints its seeds.
 */
@Timeout(120)
class LinkFuzzTest {

  private static final LinkSettings SETTINGS =
      LinkPair.settings(
          "max-frame-bytes = 2 MiB", "handshake-timeout = 5s", "give-up-after = 100ms");

  /**
   * A message of a node. The tests damage its payload and then frame it correctly, or damage the
   * whole frame.
   */
  private record Message(FrameType type, byte[] payload) {}

  private static final List<Message> MESSAGES =
      List.of(
          new Message(
              FrameType.WELCOME,
              Welcome.newBuilder()
                  .setNodeId("node")
                  .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
                  .setLibtorchVersion("2.10.0")
                  .addDevices(Device.newBuilder().setName("H100").setKind("cuda").setMemoryBytes(1))
                  .setComputeThreads(2)
                  .build()
                  .toByteArray()),
          new Message(
              FrameType.REFUSED,
              Refused.newBuilder()
                  .setReason(Reason.REASON_TOKEN)
                  .setMessage("wrong token")
                  .build()
                  .toByteArray()),
          new Message(
              FrameType.SESSION_CLOSED,
              SessionClosed.newBuilder()
                  .setReason(Reason.REASON_CLOSED)
                  .setMessage("closed")
                  .build()
                  .toByteArray()),
          new Message(
              FrameType.GOODBYE,
              Goodbye.newBuilder()
                  .setReason(Reason.REASON_SHUTTING_DOWN)
                  .setMessage("bye")
                  .build()
                  .toByteArray()),
          new Message(
              FrameType.ACK, new byte[] {(byte) 0xB8, WireFormat.WIRE_VERSION, 1, 1, 5, 4, 0}),
          new Message(FrameType.VALUE, new byte[40]),
          new Message(FrameType.SESSION_OPENED, new byte[0]),
          new Message(FrameType.HEARTBEAT, new byte[0]),
          new Message(FrameType.BATCH, new byte[100]));

  @Test
  @Tag("fast")
  void damagedFramesEndTheConnection() throws Exception {
    damagedFrames(300);
  }

  @Test
  @Tag("full")
  void manyDamagedFramesEndTheConnection() throws Exception {
    damagedFrames(6_000);
  }

  @Test
  @Tag("fast")
  void machinesPutUpWithNodesThatSendAnything() throws Exception {
    damagedAnswers(20);
  }

  @Test
  @Tag("full")
  void machinesPutUpWithManyNodesThatSendAnything() throws Exception {
    damagedAnswers(300);
  }

  /** Whole streams of frames, damaged anywhere: headers, checksums, payloads. */
  private static void damagedFrames(int rounds) throws Exception {
    long seed = System.nanoTime();
    System.err.println("damaged frames: seed " + seed);
    Damage damage = new Damage(seed);
    int ended = 0;
    for (int round = 0; round < rounds; round++) {
      try (LinkPair pair = LinkPair.open()) {
        LinkPair.Recorder recorder = new LinkPair.Recorder();
        LinkConnection connection =
            LinkConnection.start(LinkChannel.plain(pair.near), "peer", SETTINGS, recorder);
        byte[] bytes = damage.of(stream(damage), stream(damage));
        pair.far.write(ByteBuffer.wrap(bytes));
        pair.far.shutdownOutput();
        Throwable cause = recorder.cause();
        assertThat(cause)
            .as("seed %d, round %d", seed, round)
            .isInstanceOfAny(ProtocolException.class, EOFException.class);
        ended += cause instanceof ProtocolException ? 1 : 0;
        connection.close();
      }
    }
    assertThat(ended).as("seed %d", seed).isGreaterThan(rounds / 4);
  }

  private static byte[] stream(Damage damage) {
    ByteBuffer stream = ByteBuffer.allocate(4096);
    int frames = 1 + damage.below(4);
    for (int index = 0; index < frames; index++) {
      Message message = MESSAGES.get(damage.below(MESSAGES.size()));
      stream.put(
          LinkPair.encoded(index, message.type, damage.below(3), index + 1, message.payload));
    }
    byte[] bytes = new byte[stream.flip().remaining()];
    stream.get(bytes);
    return bytes;
  }

  /** Valid frames with damaged payloads, so that the damage reaches the payloads' readers. */
  private static void damagedAnswers(int rounds) throws Exception {
    long seed = System.nanoTime();
    System.err.println("damaged answers: seed " + seed);
    Damage damage = new Damage(seed);
    ActorTestKit kit = ActorTestKit.create();
    try {
      for (int round = 0; round < rounds; round++) {
        BlockingQueue<NodeLink.Event> events = new LinkedBlockingQueue<>();
        // Each round has its own port, because the link dials again.
        ServerSocket listening = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
        ActorRef<NodeLink.Command> link =
            kit.spawn(
                NodeLink.create(
                    "fuzzed",
                    new InetSocketAddress(listening.getInetAddress(), listening.getLocalPort()),
                    LaunchToken.random(),
                    SETTINGS,
                    events::add));
        try (listening;
            Socket node = listening.accept()) {
          listening.close();
          answer(node, damage);
          node.shutdownOutput();
          RemoraException cause = null;
          while (cause == null) {
            NodeLink.Event event = events.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
            assertThat(event).as("seed %d, round %d", seed, round).isNotNull();
            cause = event instanceof NodeLink.Lost lost ? lost.cause() : null;
          }
          assertThat(cause)
              .as("seed %d, round %d", seed, round)
              .isInstanceOf(RemoraException.class);
        }
        kit.createTestProbe().expectTerminated(link, LIMIT);
      }
    } finally {
      kit.shutdownTestKit();
    }
  }

  private static void answer(Socket node, Damage damage) throws IOException {
    node.getInputStream().readNBytes(FrameHeader.BYTES);
    int index = 0;
    if (damage.below(2) == 0) {
      write(node, index++, MESSAGES.get(0).type, MESSAGES.get(0).payload, damage);
    }
    for (int frames = 1 + damage.below(3); frames > 0; frames--) {
      Message message = MESSAGES.get(damage.below(MESSAGES.size()));
      Message other = MESSAGES.get(damage.below(MESSAGES.size()));
      write(node, index++, message.type, damage.of(message.payload, other.payload), damage);
    }
  }

  private static void write(Socket node, int index, FrameType type, byte[] payload, Damage damage)
      throws IOException {
    try {
      node.getOutputStream()
          .write(LinkPair.encoded(index, type, damage.below(2), damage.below(3), payload).array());
    } catch (IOException e) {
      // The machine has closed the connection.
    }
  }
}
