// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.full;
import static org.bytedeco.pytorch.global.torch.ones;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.CloseSession;
import io.remora.actors.link.proto.OpenSession;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.provider.LaunchToken;
import io.remora.runtime.Batch;
import io.remora.runtime.MachineSession;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.SessionSettings;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Sessions of a node: real batches of a real recorder over a real connection. */
@Tag("fast")
@Timeout(120)
class SessionTest {

  private static final Config CONFIG = ConfigFactory.load();
  private static final LaunchToken TOKEN = LaunchToken.random();
  private static final AtomicInteger MACHINES = new AtomicInteger();

  private static EmbeddedNode node;
  private static Owner first;

  private Owner owner;

  @BeforeAll
  static void start() throws Exception {
    Config config = ConfigFactory.parseString("remora.node.max-sessions = 3").withFallback(CONFIG);
    node =
        EmbeddedNode.start(
            NodeOptions.defaults(TOKEN)
                .withDevices(DeviceChoice.CPU, Optional.of(2), Optional.of("L4")),
            config);
    first = Owner.connect(node.address(), TOKEN);
  }

  @AfterAll
  static void stop() {
    first.close();
    node.close();
  }

  @BeforeEach
  void connect() throws Exception {
    owner = first.another();
  }

  @AfterEach
  void disconnect() throws Exception {
    owner.close();
    owner.awaitClosed();
  }

  @Test
  void executesAProgramsOperations() throws Exception {
    owner.openSession(1);
    try (MachineSession session = session(2)) {
      session.connect(owner.sink(1, session));

      Tensor first = ones(100, 100).to(session.device(0), ScalarType.Float);
      Tensor sum = first.mm(first).sum();
      Tensor second = full(new long[] {3}, new Scalar(2.5)).to(session.device(1), ScalarType.Float);

      assertThat(sum.item_float()).isEqualTo(1_000_000f);
      assertThat(second.sum().item_float()).isEqualTo(7.5f);
    }
  }

  @Test
  void sendsLargeValuesWholeAndInOrder() throws Exception {
    owner.openSession(1);
    try (MachineSession session = session(1)) {
      session.connect(owner.sink(1, session));
      long elements = 3_000_001;
      Tensor remote = arange(new Scalar(elements)).to(session.device(0), ScalarType.Long);

      CompletableFuture<Tensor> large = session.read(remote).toCompletableFuture();
      Tensor small = remote.sum();

      assertThat(small.item_long()).isEqualTo(elements * (elements - 1) / 2);
      Tensor expected = arange(new Scalar(elements)).to(ScalarType.Long);
      assertThat(large.get(60, TimeUnit.SECONDS).equal(expected)).isTrue();
    }
  }

  @Test
  void letsOtherSessionsThroughWhileAValueTravels() throws Exception {
    owner.openSession(1);
    owner.openSession(2);
    try (MachineSession bulk = session(1);
        MachineSession quick = session(1)) {
      CountDownLatch answers = new CountDownLatch(3);
      bulk.connect(owner.sink(1, new Unhurried(bulk, answers)));
      quick.connect(owner.sink(2, quick));
      Tensor large = ones(64L << 20).to(bulk.device(0), ScalarType.Float);
      Tensor one = ones(1).to(quick.device(0), ScalarType.Float);
      bulk.synchronize();
      assertThat(one.item_float()).isEqualTo(1f);

      CompletableFuture<Tensor> transfer = bulk.read(large).toCompletableFuture();
      while (!transfer.isDone() && answers.getCount() > 0) {
        assertThat(one.add(one).item_float()).isEqualTo(2f);
        answers.countDown();
      }

      assertThat(answers.getCount()).as("answers that came after the value").isZero();
      assertThat(transfer.get(60, TimeUnit.SECONDS).numel()).isEqualTo(64L << 20);
    }
  }

  /** Takes a piece of a value only each 50 ms, until the answers have come. */
  private record Unhurried(SessionListener session, CountDownLatch answers)
      implements SessionListener {

    @Override
    public void onExecuted(long sequence, ByteBuffer report) {
      session.onExecuted(sequence, report);
    }

    @Override
    public ByteBuffer valueDestination(long request, long offset, int length) {
      return session.valueDestination(request, offset, length);
    }

    @Override
    public void onValueReceived(long request, long offset, int length) {
      try {
        boolean unused = answers.await(50, TimeUnit.MILLISECONDS);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
      session.onValueReceived(request, offset, length);
    }

    @Override
    public void onLost(RemoraException cause) {
      session.onLost(cause);
    }
  }

  @Test
  void executesNothingTwice() throws Exception {
    owner.openSession(1);
    try (MachineSession session = session(1)) {
      List<ByteBuffer> sent = new ArrayList<>();
      owner.sink(1, session);
      session.connect(
          batch -> {
            ByteBuffer copy = copy(batch);
            sent.add(copy);
            owner.sendBatches(1, batch.sequence(), copy);
            batch.release();
          });
      Tensor counter = ones(1).to(session.device(0), ScalarType.Float);
      for (int i = 0; i < 5; i++) {
        counter.add_(new Scalar(1.0f));
      }
      session.synchronize();
      int before = sent.size();

      // As after a lost connection, all batches again, one by one and then in one frame.
      for (int i = 0; i < before; i++) {
        owner.sendBatches(1, i + 1L, sent.get(i));
      }
      owner.sendBatches(1, 1, sent.subList(0, before).toArray(ByteBuffer[]::new));

      assertThat(counter.item_float()).isEqualTo(6f);
      assertThat(owner.nothingReceived()).isTrue();
    }
  }

  @Test
  void endsASessionThatLeavesOutABatch() throws Exception {
    owner.openSession(1);

    owner.sendBatches(1, 3, ByteBuffer.allocateDirect(8));

    SessionClosed closed = owner.next(FrameType.SESSION_CLOSED).as(SessionClosed.parser());
    assertThat(closed.getReason()).isEqualTo(Reason.REASON_MALFORMED);
    assertThat(closed.getMessage()).contains("batch 3 came after batch 0");
  }

  @Test
  void endsOnlyTheSessionWhoseBatchesCannotBeRead() throws Exception {
    owner.openSession(1);
    owner.openSession(2);
    ByteBuffer garbage = ByteBuffer.allocateDirect(200);
    for (int i = 0; i < garbage.capacity(); i++) {
      garbage.put(i, (byte) (i * 37 + 11));
    }

    owner.sendBatches(1, 1, garbage);

    SessionClosed closed = owner.next(FrameType.SESSION_CLOSED).as(SessionClosed.parser());
    assertThat(closed.getReason()).isEqualTo(Reason.REASON_MALFORMED);
    assertThat(closed.getMessage()).isNotBlank();
    try (MachineSession session = session(1)) {
      session.connect(owner.sink(2, session));
      assertThat(ones(2).to(session.device(0), ScalarType.Float).sum().item_float()).isEqualTo(2f);
    }
  }

  @Test
  void refusesAFrameWhoseBatchesDoNotAddUp() throws Exception {
    owner.openSession(1);
    ByteBuffer payload = ByteBuffer.allocateDirect(12).order(ByteOrder.LITTLE_ENDIAN);
    payload.putInt(0, 1000);

    owner.sendRaw(1, 1, payload);

    SessionClosed closed = owner.next(FrameType.SESSION_CLOSED).as(SessionClosed.parser());
    assertThat(closed.getMessage()).contains("1000 bytes in a frame that has 8 left");
  }

  @Test
  void closesASessionAfterTheBatchesBeforeIt() throws Exception {
    owner.openSession(1);
    try (MachineSession session = session(1)) {
      session.connect(owner.sink(1, session));
      ones(2).to(session.device(0), ScalarType.Float);
      session.synchronize();
    }

    owner.send(FrameType.CLOSE_SESSION, 1, CloseSession.getDefaultInstance());

    SessionClosed closed = owner.next(FrameType.SESSION_CLOSED).as(SessionClosed.parser());
    assertThat(closed.getReason()).isEqualTo(Reason.REASON_CLOSED);
  }

  @Test
  void answersForASessionItDoesNotHave() throws Exception {
    owner.sendBatches(99, 1, ByteBuffer.allocateDirect(8));

    SessionClosed closed = owner.next(FrameType.SESSION_CLOSED).as(SessionClosed.parser());
    assertThat(closed.getReason()).isEqualTo(Reason.REASON_UNKNOWN_SESSION);
  }

  @Test
  void opensNoMoreSessionsThanItsLimit() throws Exception {
    for (long session = 1; session <= 3; session++) {
      owner.openSession(session);
    }

    owner.send(FrameType.OPEN_SESSION, 4, OpenSession.getDefaultInstance());

    Refused refused = owner.next(FrameType.REFUSED).as(Refused.parser());
    assertThat(refused.getReason()).isEqualTo(Reason.REASON_BUSY);
    assertThat(refused.getMessage()).contains("remora.node.max-sessions");
  }

  @Test
  void freesTheSessionsOfALinkThatSaysGoodbye() throws Exception {
    for (int round = 0; round < 3; round++) {
      try (Owner other = first.another()) {
        other.openSession(1);
        other.openSession(2);
        other.openSession(3);
      }
    }
  }

  @Test
  void saysAgainThatASessionIsOpen() throws Exception {
    owner.openSession(1);
    owner.openSession(1);
  }

  private static MachineSession session(int devices) {
    return MachineSession.open(
        "machine-" + MACHINES.incrementAndGet(), devices, SessionSettings.from(CONFIG));
  }

  private static ByteBuffer copy(Batch batch) {
    ByteBuffer bytes = batch.bytes();
    return ByteBuffer.allocateDirect(bytes.remaining()).put(bytes).flip();
  }
}
