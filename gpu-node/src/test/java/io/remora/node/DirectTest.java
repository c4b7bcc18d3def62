// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.CloseSession;
import io.remora.actors.link.proto.DirectHello;
import io.remora.actors.link.proto.DirectNotes;
import io.remora.actors.link.proto.DirectProgress;
import io.remora.actors.link.proto.DirectToken;
import io.remora.actors.link.proto.DirectWelcome;
import io.remora.actors.link.proto.Refused;
import io.remora.provider.LaunchToken;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Programs' own connections to a node, past their machine's link, over real sockets. */
@Tag("fast")
@Timeout(60)
class DirectTest {

  private static final LaunchToken TOKEN = LaunchToken.random();
  private static final DirectNotes NOTES =
      DirectNotes.newBuilder().addBorn(7).addBorn(64).addBorn(0).setOperations(3).build();

  private EmbeddedNode node;
  private Owner owner;

  @BeforeEach
  void start() throws Exception {
    Config config =
        ConfigFactory.parseString("remora.node.max-connections = 4")
            .withFallback(ConfigFactory.load());
    node =
        EmbeddedNode.start(
            NodeOptions.defaults(TOKEN)
                .withDevices(DeviceChoice.CPU, Optional.empty(), Optional.empty()),
            config);
    owner = Owner.connect(node.address(), TOKEN);
    owner.openSession(1);
  }

  @AfterEach
  void stop() {
    owner.cut();
    node.close();
  }

  @Test
  void carriesBatchesAndTellsTheMachineOfThem() throws Exception {
    List<ByteBuffer> batches = LinkResumeTest.record(4);
    Owner program = connect(token(), 0);
    assertThat(progress().getReceivedSequence()).isZero();

    for (int i = 0; i < 4; i++) {
      if (i == 3) {
        program.confirm(1, 2); // the node has it when it answers to the batch after it
      }
      program.sendDirectly(1, i + 1L, NOTES, batches.get(i));
      assertThat(program.next(FrameType.ACK).header().sequence()).isEqualTo(i + 1L);
    }
    DirectProgress.Builder all = DirectProgress.newBuilder();
    while (all.getExecutedSequence() < 4) {
      all.mergeFrom(progress());
    }
    assertThat(all.getReceivedSequence()).isEqualTo(4);
    assertThat(all.getNotes().getBornCount()).isEqualTo(12);
    assertThat(all.getRealizedCount()).isPositive();
    assertThat(all.getBatchBytes()).isPositive();

    program.cut();
    DirectProgress last = closing();
    assertThat(last.getReceivedSequence()).isEqualTo(4);
    assertThat(last.getConfirmedSequence()).isEqualTo(2);
    // The reports that the program has not confirmed.
    assertThat(owner.next(FrameType.ACK).header().sequence()).isEqualTo(3);
    assertThat(owner.next(FrameType.ACK).header().sequence()).isEqualTo(4);
  }

  @Test
  void aTokenAdmitsOneConnection() throws Exception {
    String token = token();
    refuse(LaunchToken.random().value(), 1, 0);
    refuse(token, 2, 0);
    Owner program = connect(token, 0);
    refuse(token, 1, 0);

    program.sendDirectly(1, 1, NOTES, LinkResumeTest.record(1).get(0));
    program.next(FrameType.ACK);
  }

  @Test
  void aNewerTokenReplacesAnUnusedOne() throws Exception {
    String first = token();
    String second = token();
    refuse(first, 1, 0);
    connect(second, 0);
  }

  @Test
  void refusesAProgramThatWaitsForReports() throws Exception {
    owner.sendBatches(1, 1, LinkResumeTest.record(1).get(0));
    owner.next(FrameType.ACK);
    refuse(token(), 1, 0);
    connect(token(), 1);
  }

  @Test
  void keepsRoomForLinks() throws Exception {
    owner.openSession(2);
    owner.openSession(3);
    connect(1, token(1), 0);
    connect(2, token(2), 0);
    refuse(token(3), 3, 0);
  }

  @Test
  void theMachineClosesItWhileBatchesArrive() throws Exception {
    List<ByteBuffer> batches = LinkResumeTest.record(100);
    Owner program = connect(token(), 0);
    for (int i = 0; i < 50; i++) {
      program.sendDirectly(1, i + 1L, NOTES, batches.get(i));
    }
    owner.send(FrameType.CLOSE_DIRECT, 1, 0, ByteBuffer.allocate(0));
    for (int i = 50; i < 100; i++) {
      program.sendDirectly(1, i + 1L, NOTES, batches.get(i));
    }
    long received = closing().getReceivedSequence();
    program.awaitClosed();

    // What the node has not received is sent over the link, and nothing is executed twice.
    for (long i = received + 1; i <= 100; i++) {
      owner.sendBatches(1, i, batches.get((int) i - 1));
    }
    long last = 0;
    while (last < 100) {
      long next = owner.next(FrameType.ACK).header().sequence();
      assertThat(next).isGreaterThan(last);
      last = next;
    }
  }

  @Test
  void revokesAnUnusedTokenOnRequest() throws Exception {
    String token = token();
    owner.send(FrameType.CLOSE_DIRECT, 1, 0, ByteBuffer.allocate(0));
    assertThat(closing().getReceivedSequence()).isZero();
    refuse(token, 1, 0);
  }

  @Test
  void theEndOfTheSessionComesAfterTheEndOfTheConnection() throws Exception {
    Owner program = connect(token(), 0);
    program.sendDirectly(1, 1, NOTES, LinkResumeTest.record(1).get(0));
    program.next(FrameType.ACK);
    owner.send(FrameType.CLOSE_SESSION, 1, CloseSession.getDefaultInstance());
    assertThat(closing().getReceivedSequence()).isEqualTo(1);
    owner.next(FrameType.ACK);
    owner.next(FrameType.SESSION_CLOSED);
    program.awaitClosed();
  }

  @Test
  void aDamagedFrameEndsTheConnectionAndNotTheSession() throws Exception {
    List<ByteBuffer> batches = LinkResumeTest.record(1);
    for (ByteBuffer bad :
        List.of(
            ByteBuffer.allocate(3),
            numbers(1000, 0),
            numbers(-1, 0),
            numbers(0),
            numbers(0, 1 << 20))) {
      Owner program = connect(token(), 0);
      program.send(FrameType.DIRECT_BATCH, 1, 1, bad);
      program.next(FrameType.GOODBYE);
      program.awaitClosed();
      assertThat(closing().getReceivedSequence()).isZero();
    }
    Owner program = connect(token(), 0);
    program.sendDirectly(1, 2, NOTES, batches.get(0)); // a gap
    program.awaitClosed();
    assertThat(closing().getReceivedSequence()).isZero();
    owner.sendBatches(1, 1, batches.get(0));
    owner.next(FrameType.ACK);
  }

  @Test
  void aNewConnectionOfTheLinkGetsTheSessionBack() throws Exception {
    Owner program = connect(token(), 0);
    program.sendDirectly(1, 1, NOTES, LinkResumeTest.record(1).get(0));
    program.next(FrameType.ACK);
    owner.cut();
    program.awaitClosed();

    owner = owner.again(Owner.position(1, 0));
    owner.welcome();
    DirectProgress.Builder all = DirectProgress.newBuilder();
    while (!all.getClosed()) { // what the machine has not confirmed is told again
      all.mergeFrom(DirectProgress.parseFrom(owner.next(FrameType.DIRECT_PROGRESS).payload()));
    }
    assertThat(all.getReceivedSequence()).isEqualTo(1);
    assertThat(all.getNotes().getBornCount()).isEqualTo(3);
    assertThat(owner.next(FrameType.ACK).header().sequence()).isEqualTo(1);
  }

  private static ByteBuffer numbers(int... numbers) {
    ByteBuffer bytes =
        ByteBuffer.allocate(numbers.length * Integer.BYTES).order(ByteOrder.LITTLE_ENDIAN);
    for (int number : numbers) {
      bytes.putInt(number);
    }
    return bytes.flip();
  }

  private String token() throws Exception {
    return token(1);
  }

  private String token(long session) throws Exception {
    owner.send(FrameType.OPEN_DIRECT, session, 0, ByteBuffer.allocate(0));
    while (true) {
      Owner.Received frame = owner.next();
      if (frame.header().type() == FrameType.DIRECT_TOKEN) {
        return DirectToken.parseFrom(frame.payload()).getToken();
      }
      assertThat(frame.header().type()).isEqualTo(FrameType.DIRECT_PROGRESS);
    }
  }

  private Owner connect(String token, long acknowledged) throws Exception {
    return connect(1, token, acknowledged);
  }

  private Owner connect(long session, String token, long acknowledged) throws Exception {
    Owner program = hello(session, token, acknowledged);
    DirectWelcome welcome =
        DirectWelcome.parseFrom(program.next(FrameType.DIRECT_WELCOME).payload());
    assertThat(welcome.getLastReceivedSequence()).isEqualTo(acknowledged);
    return program;
  }

  private void refuse(String token, long session, long acknowledged) throws Exception {
    Owner stranger = hello(session, token, acknowledged);
    Refused refused = Refused.parseFrom(stranger.next(FrameType.REFUSED).payload());
    assertThat(refused.getMessage()).isNotEmpty().doesNotContain(token);
    stranger.awaitClosed();
  }

  private Owner hello(long session, String token, long acknowledged) throws Exception {
    Owner program = Owner.dial(node.address());
    program.send(
        FrameType.DIRECT_HELLO,
        session,
        DirectHello.newBuilder().setToken(token).setLastAcknowledgedSequence(acknowledged).build());
    return program;
  }

  private DirectProgress progress() throws Exception {
    return DirectProgress.parseFrom(owner.next(FrameType.DIRECT_PROGRESS).payload());
  }

  /** The last progress of the connection. */
  private DirectProgress closing() throws Exception {
    while (true) {
      DirectProgress next = progress();
      if (next.getClosed()) {
        return next;
      }
    }
  }
}
