// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.MessageLite;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.Fetch;
import io.remora.actors.link.proto.ForgetState;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.OpenSession;
import io.remora.actors.link.proto.SaveSession;
import io.remora.actors.link.proto.SavedState;
import io.remora.core.WireFormat;
import io.remora.provider.LaunchToken;
import java.io.IOException;
import java.net.Socket;
import java.net.SocketException;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.zip.CRC32C;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Whatever a machine or another node sends, the node keeps serving all others. Prints its seeds.
 */
@Timeout(120)
class NodeFuzzTest {

  private static final LaunchToken TOKEN = LaunchToken.random();

  /**
   * Valid messages. The tests damage them and frame them correctly, so that the damage reaches
   * their readers.
   */
  private static final List<Map.Entry<FrameType, byte[]>> MESSAGES =
      List.of(
          message(FrameType.HELLO, Owner.hello(TOKEN)),
          message(
              FrameType.OPEN_SESSION,
              OpenSession.newBuilder().setRestoredFrom(SavedState.getDefaultInstance()).build()),
          message(FrameType.OPEN_SESSION, OpenSession.getDefaultInstance()),
          message(FrameType.SAVE_SESSION, SaveSession.newBuilder().setPause("pause").build()),
          message(FrameType.FORGET_STATE, ForgetState.newBuilder().setPause("pause").build()),
          message(FrameType.FETCH, Fetch.newBuilder().setTicket("ticket").setBytes(100).build()),
          message(FrameType.GOODBYE, Goodbye.newBuilder().setMessage("bye").build()),
          // One batch: its length, then a storage of four floats, and a request.
          Map.entry(
              FrameType.BATCH,
              new byte[] {6, 0, 0, 0, (byte) 0xB7, WireFormat.WIRE_VERSION, 17, 1, 0, 8}),
          Map.entry(FrameType.CLOSE_SESSION, new byte[0]),
          Map.entry(FrameType.VALUE, new byte[40]),
          Map.entry(FrameType.ACK, new byte[3]));

  @TempDir private Path states;
  private EmbeddedNode node;

  @BeforeEach
  void start() {
    Config config =
        ConfigFactory.parseString(
                """
                remora.link { max-frame-bytes = 2 MiB, give-up-after = 1s }
                remora.node { max-connections = 100, max-sessions = 1024, session-lease = 1s }
                """)
            .withFallback(
                ConfigFactory.parseMap(Map.of("remora.state.directory", states.toString())))
            .withFallback(ConfigFactory.load());
    node =
        EmbeddedNode.start(
            NodeOptions.defaults(TOKEN)
                .withDevices(DeviceChoice.CPU, Optional.empty(), Optional.empty()),
            config);
  }

  @AfterEach
  void stop() {
    node.close();
  }

  @Test
  @Tag("fast")
  void putsUpWithDamagedMessages() throws Exception {
    send(200);
  }

  @Test
  @Tag("full")
  void putsUpWithManyDamagedMessages() throws Exception {
    send(3_000);
  }

  private void send(int rounds) throws Exception {
    long seed = System.nanoTime();
    System.err.println("damaged messages to a node: seed " + seed);
    Random random = new Random(seed);
    try (Owner owner = Owner.connect(node.address(), TOKEN)) {
      for (int round = 0; round < rounds; round++) {
        // Every other round has a valid token.
        LaunchToken token = round % 2 == 0 ? owner.issueToken() : TOKEN;
        send(random, message(FrameType.HELLO, Owner.hello(token)), seed);
        if (round % 100 == 0) {
          owner.openSession(1_000_000 + round);
        }
      }
    }
  }

  private void send(Random random, Map.Entry<FrameType, byte[]> hello, long seed)
      throws IOException {
    try (Socket socket = new Socket(node.address().getAddress(), node.address().getPort())) {
      socket.setSoTimeout(60_000);
      int index = 0;
      if (random.nextInt(4) > 0) {
        write(socket, index++, hello, random);
      }
      for (int messages = 1 + random.nextInt(4); messages > 0; messages--) {
        Map.Entry<FrameType, byte[]> sound = MESSAGES.get(random.nextInt(MESSAGES.size()));
        write(
            socket,
            index++,
            random.nextInt(3) == 0
                ? sound
                : Map.entry(sound.getKey(), damaged(sound.getValue(), random)),
            random);
      }
      socket.shutdownOutput();
      // The answer ends when the node closes the connection, within the socket's timeout.
      assertThat(socket.getInputStream().readAllBytes()).as("seed %d", seed).isNotNull();
    } catch (SocketException e) {
      // The node has closed the connection with unread bytes.
    }
  }

  private static void write(
      Socket socket, int index, Map.Entry<FrameType, byte[]> message, Random random)
      throws IOException {
    byte[] payload = message.getValue();
    CRC32C crc = new CRC32C();
    crc.update(payload);
    ByteBuffer frame = ByteBuffer.allocate(FrameHeader.BYTES + payload.length);
    new FrameHeader(
            message.getKey(),
            0,
            payload.length,
            random.nextInt(3),
            random.nextInt(3),
            (int) crc.getValue())
        .writeTo(frame, index);
    socket.getOutputStream().write(frame.put(payload).array());
  }

  private static byte[] damaged(byte[] sound, Random random) {
    byte[] bytes = sound.clone();
    if (random.nextInt(4) == 0) {
      bytes = Arrays.copyOf(bytes, random.nextInt(2 * bytes.length + 2));
    }
    for (int changes = random.nextInt(4); changes > 0 && bytes.length > 0; changes--) {
      bytes[random.nextInt(bytes.length)] =
          random.nextBoolean() ? (byte) 0xff : (byte) random.nextInt();
    }
    return bytes;
  }

  private static Map.Entry<FrameType, byte[]> message(FrameType type, MessageLite message) {
    return Map.entry(type, message.toByteArray());
  }
}
