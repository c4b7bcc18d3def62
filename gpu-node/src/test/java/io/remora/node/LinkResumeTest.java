// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;

import com.google.protobuf.ByteString;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.CloseSession;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SessionProgress;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import io.remora.runtime.BatchSink;
import io.remora.runtime.MachineSession;
import io.remora.runtime.SessionSettings;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Tests that a link keeps its sessions from one connection to the next. */
@Tag("fast")
@Timeout(120)
class LinkResumeTest {

  private static final LaunchToken TOKEN = LaunchToken.random();
  private static final AtomicInteger MACHINES = new AtomicInteger();

  private EmbeddedNode node;

  @AfterEach
  void stop() {
    node.close();
  }

  @Test
  void sendsAgainWhatWasNotConfirmed() throws Exception {
    start("");
    Owner owner = Owner.connect(node.address(), TOKEN);
    owner.openSession(1);
    List<ByteBuffer> batches = record(4);
    for (int i = 0; i < 4; i++) {
      owner.sendBatches(1, i + 1L, batches.get(i));
      assertThat(owner.next(FrameType.ACK).header().sequence()).isEqualTo(i + 1L);
    }
    owner.confirm(1, 1);
    owner.cut();

    Owner second = owner.again(Owner.position(1, 2));
    assertThat(second.welcome().getSessionsList()).containsExactly(progress(1, 4));
    assertThat(second.next(FrameType.ACK).header().sequence()).isEqualTo(3);
    Owner.Received again = second.next(FrameType.ACK);
    assertThat(again.header().sequence()).isEqualTo(4);
    second.cut();

    try (Owner third = second.again(Owner.position(1, 3))) {
      third.welcome();
      Owner.Received fourth = third.next(FrameType.ACK);
      assertThat(fourth.payload()).isEqualTo(again.payload());
    }
  }

  @Test
  void takesOverFromAConnectionThatIsThereStill() throws Exception {
    start("");
    Owner owner = Owner.connect(node.address(), TOKEN);
    owner.openSession(1);
    List<ByteBuffer> batches = record(2);
    owner.sendBatches(1, 1, batches.get(0));
    owner.next(FrameType.ACK);

    try (Owner second = owner.again(Owner.position(1, 1))) {
      assertThat(second.welcome().getSessionsList()).containsExactly(progress(1, 1));
      owner.awaitClosed();
      second.sendBatches(1, 2, batches.get(1));
      assertThat(second.next(FrameType.ACK).header().sequence()).isEqualTo(2);

      // A late Hello of an earlier connection.
      try (Owner late = Owner.dial(node.address())) {
        late.hello(owner.helloAgain());
        late.awaitClosed();
        assertThat(late.nothingReceived()).isTrue();
      }
      second.openSession(2);
    }
  }

  @Test
  void welcomesTheLinkAgainWhoseWelcomeWasLost() throws Exception {
    start("");
    Owner lost = Owner.dial(node.address());
    lost.hello(Owner.hello(TOKEN));
    Welcome first = lost.welcome();
    lost.cut();

    try (Owner owner = Owner.dial(node.address())) {
      owner.hello(lost.helloAgain().toBuilder().clearSecret().setToken(TOKEN.value()).build());
      assertThat(owner.welcome().getSecret()).isEqualTo(first.getSecret());
      owner.openSession(1);
    }
  }

  @Test
  void keepsTheEndOfASessionUntilItIsConfirmed() throws Exception {
    start("");
    Owner owner = Owner.connect(node.address(), TOKEN);
    owner.openSession(1);
    owner.sendBatches(1, 1, record(1).get(0));
    owner.send(FrameType.CLOSE_SESSION, 1, CloseSession.getDefaultInstance());
    owner.next(FrameType.ACK);
    owner.next(FrameType.SESSION_CLOSED);
    owner.cut();

    Owner second = owner.again(Owner.position(1, 0));
    assertThat(second.welcome().getSessionsList()).containsExactly(progress(1, 1));
    second.next(FrameType.ACK);
    second.next(FrameType.SESSION_CLOSED);
    second.confirm(1, FrameType.END);
    second.openSession(2);
    second.cut();

    try (Owner third = second.again(Owner.position(1, 1), Owner.position(2, 0))) {
      assertThat(third.welcome().getSessionsList()).containsExactly(progress(2, 0));
    }
  }

  @Test
  void dropsSessionsThatTheMachineDoesNotNameAnyMore() throws Exception {
    start("remora.node.max-sessions = 1");
    Owner owner = Owner.connect(node.address(), TOKEN);
    owner.openSession(1);
    owner.cut();

    try (Owner second = owner.again()) {
      assertThat(second.welcome().getSessionsList()).isEmpty();
      try (Owner other = second.another()) {
        other.openSession(1);
      }
    }
  }

  @Test
  void executesWhatItHasWithoutAConnection() throws Exception {
    start("");
    Owner owner = Owner.connect(node.address(), TOKEN);
    List<ByteBuffer> batches = record(200);
    owner.openSession(2);
    owner.sendBatches(2, 1, batches.toArray(ByteBuffer[]::new));
    owner.next(FrameType.ACK);
    owner.cut();

    try (Owner second = owner.again(Owner.position(2, 0))) {
      assertThat(second.welcome().getSessionsList()).containsExactly(progress(2, 200));
      for (long i = 1; i <= 200; i++) {
        assertThat(second.next(FrameType.ACK).header().sequence()).isEqualTo(i);
      }
    }
  }

  @Test
  void stopsExecutingWhileTooMuchIsNotConfirmed() throws Exception {
    start("remora.node.max-unconfirmed-bytes = 4 MiB");
    try (Owner owner = Owner.connect(node.address(), TOKEN);
        MachineSession session = session()) {
      owner.openSession(1);
      owner.confirmNothing();
      AtomicInteger sent = new AtomicInteger();
      BatchSink sink = owner.sink(1, session);
      session.connect(
          batch -> {
            sent.set((int) batch.sequence());
            sink.submit(batch);
          });
      Tensor large = ones(1L << 20).to(session.device(0), ScalarType.Float); // 4 MiB
      session.synchronize();
      session.read(large).toCompletableFuture().get(40, TimeUnit.SECONDS).close();
      int confirmed = sent.get();

      CompletableFuture<Tensor> next = session.read(large).toCompletableFuture();
      await()
          .during(Duration.ofMillis(300))
          .atMost(Duration.ofSeconds(40))
          .untilAsserted(() -> assertThat(next).isNotDone());
      owner.confirm(1, confirmed);

      next.get(40, TimeUnit.SECONDS).close();
      owner.confirm(1, sent.get());
    }
  }

  @Test
  void freesSessionsThatNobodyComesBackFor() throws Exception {
    start("remora.node.session-lease = 1s, remora.link.give-up-after = 1s");
    try (Owner other = Owner.connect(node.address(), TOKEN)) {
      Owner owner = other.another();
      owner.openSession(1);
      owner.cut();

      await()
          .atMost(Duration.ofSeconds(40))
          .pollInterval(Duration.ofMillis(1500))
          .untilAsserted(
              () -> {
                try (Owner late = owner.again(Owner.position(1, 0))) {
                  Refused refused = late.next(FrameType.REFUSED).as(Refused.parser());
                  assertThat(refused.getReason()).isEqualTo(Reason.REASON_UNKNOWN_LINK);
                  assertThat(refused.getMessage()).contains("remora.node.session-lease");
                }
              });
      other.openSession(1);
    }
  }

  @Test
  void refusesAnotherSecret() throws Exception {
    start("");
    Owner owner = Owner.connect(node.address(), TOKEN);
    owner.openSession(1);
    try (Owner thief = Owner.dial(node.address())) {
      byte[] guess = new byte[32];
      thief.hello(owner.helloAgain().toBuilder().setSecret(ByteString.copyFrom(guess)).build());
      assertThat(thief.next(FrameType.REFUSED).as(Refused.parser()).getReason())
          .isEqualTo(Reason.REASON_TOKEN);
    }
    owner.openSession(2);
    owner.close();
  }

  private static SessionProgress progress(long session, long lastReceived) {
    return SessionProgress.newBuilder()
        .setSession(session)
        .setLastReceivedSequence(lastReceived)
        .build();
  }

  /** The first {@code count} batches of a program. */
  static List<ByteBuffer> record(int count) {
    List<ByteBuffer> batches = Collections.synchronizedList(new ArrayList<>());
    MachineSession session = session();
    session.connect(
        batch -> {
          batches.add(ByteBuffer.allocateDirect(batch.size()).put(batch.bytes()).flip());
          batch.release();
        });
    Tensor counter = ones(1).to(session.device(0), ScalarType.Float);
    while (batches.size() < count) {
      counter.add_(new Scalar(1.0f));
      session.flush();
    }
    session.closeWithoutWaiting();
    return batches.subList(0, count);
  }

  private static MachineSession session() {
    return MachineSession.open(
        "resumed-" + MACHINES.incrementAndGet(), 1, SessionSettings.from(ConfigFactory.load()));
  }

  private void start(String settings) {
    Config config = ConfigFactory.parseString(settings).withFallback(ConfigFactory.load());
    node =
        EmbeddedNode.start(
            NodeOptions.defaults(TOKEN)
                .withDevices(DeviceChoice.CPU, Optional.empty(), Optional.empty()),
            config);
  }
}
