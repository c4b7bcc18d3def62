// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.pattern;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import akka.Done;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.pattern.StatusReply;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.proto.SessionPosition;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.NodeExit;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.StorageBirth;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Broken links and ended nodes. */
@Tag("fast")
@Timeout(60)
class MachineLossTest extends MachineFixture {

  @Test
  void failsWithExitCodeAndLastLinesWhenTheNodeEnds() throws Exception {
    open(node);
    Session session = openSession();
    node.execution = (sequence, batch) -> null;
    session.submit(1, 10, List.of());

    node.die(137, "CUDA error: out of memory", "Killed");

    assertThat(session.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("machine " + name + " lost its node")
        .hasMessageContaining("exit code 137")
        .hasMessageContaining("CUDA error: out of memory");
    assertThat(info().state()).isEqualTo(MachineState.FAILED);
    assertThat(info().reason()).contains("exit code 137");
    await().atMost(LIMIT).until(() -> session.released.get() == 1);
    assertThatThrownBy(() -> session.submit(2, 10, List.of()))
        .isInstanceOf(NodeLostException.class);
    assertThat(failure(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class)))
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("close it before");

    success(ask(MachineProtocol.Close::new, Done.class));
    assertThat(info().state()).isEqualTo(MachineState.STOPPED);
  }

  @Test
  void goesOnWhereItWasWhenTheLinkBreaks() throws Exception {
    open(node);
    Session session = openSession();
    Session other = openSession();
    for (int i = 1; i <= 5; i++) {
      session.submit(i, 10, List.of());
      assertThat(session.executed()).isEqualTo(i);
    }
    node.toRefuse.set(Integer.MAX_VALUE);

    node.connection.close();

    await().atMost(LIMIT).until(() -> node.refusals.get() >= 3);
    assertThat(info().state()).isEqualTo(MachineState.RECONNECTING);
    for (int i = 6; i <= 10; i++) {
      session.submit(i, 10, List.of());
    }
    other.submit(1, 10, List.of());
    node.toRefuse.set(0);
    for (int i = 6; i <= 10; i++) {
      assertThat(session.executed()).isEqualTo(i);
    }
    assertThat(other.executed()).isEqualTo(1);
    assertThat(node.hello.getToken()).isEmpty();
    assertThat(node.hello.getSessionsList())
        .extracting(SessionPosition::getLastAcknowledgedSequence)
        .containsExactlyInAnyOrder(5L, 0L);
    await().atMost(LIMIT).until(() -> info().state() == MachineState.READY);
    assertThat(info().reason()).contains("there again", node.refusals.get() + 1 + " attempt");
    assertThat(node.terminations).hasValue(0);
    await().atMost(LIMIT).until(() -> session.released.get() == 10);
  }

  @Test
  void sendsAgainWhatDidNotArriveAndIgnoresWhatComesTwice() throws Exception {
    open(node);
    Session session = openSession();
    BlockingQueue<Long> executed = new LinkedBlockingQueue<>();
    node.execution =
        (sequence, batch) -> {
          executed.add(sequence);
          return ReportBytes.empty();
        };
    for (int i = 1; i <= 20; i++) {
      session.submit(i, 10, List.of());
      if (i % 4 == 0) {
        // Some batches are in flight.
        node.connection.close();
      }
    }

    for (int i = 1; i <= 20; i++) {
      assertThat(session.executed()).isEqualTo(i);
      assertThat(executed.remove()).isEqualTo(i);
    }
    assertThat(executed).isEmpty();
    assertThat(session.executions).isEmpty();
    assertThat(info().state()).isIn(MachineState.READY, MachineState.RECONNECTING);
  }

  @Test
  void countsNoByteOfAValueTwice() throws Exception {
    open(node);
    Session session = openSession();
    ByteBuffer value = pattern(3_000_000, 9);
    node.sendValue(session.id, 12, value.slice(0, 3_000_000));
    await().atMost(LIMIT).until(() -> session.valueBytes.get() == 3_000_000);

    node.connection.close();
    await().atMost(LIMIT).until(() -> node.connections.get() == 2);
    await().atMost(LIMIT).until(() -> info().state() == MachineState.READY);
    node.sendValue(session.id, 12, value);
    session.submit(1, 10, List.of());

    assertThat(session.executed()).isEqualTo(1);
    assertThat(session.valueBytes).hasValue(3_000_000);
  }

  @Test
  void asksAgainForASessionThatWasBeingOpenedOrClosed() {
    open(node);
    node.opens = false;
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening =
        ask(MachineProtocol.OpenSession::new, MachineProtocol.SessionOpened.class);
    await().atMost(LIMIT).until(() -> node.heard.stream().anyMatch(h -> h.startsWith("open ")));
    node.opens = true;
    node.connection.close();
    long session = success(opening).session();

    node.connection.close();
    TestProbe<StatusReply<Done>> closing =
        ask(to -> new MachineProtocol.CloseSession(session, to), Done.class);

    success(closing);
    await().atMost(LIMIT).until(() -> FrameType.END == node.confirmed.getOrDefault(session, 0L));
  }

  @Test
  void goesOnPausingWhenTheLinkIsThereAgain() throws Exception {
    open(node);
    Session session = openSession();
    session.submit(1, 10, List.of());
    assertThat(session.executed()).isEqualTo(1);
    node.saves = false;
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));
    node.saves = true;

    node.connection.close();

    assertThat(success(pausing).state()).isEqualTo(MachineState.PAUSED);
  }

  @Test
  void failsToPauseAndGoesOnWhenTheLinkDoesNotComeBackInTime() throws Exception {
    configure(
        "remora { machine.pause-timeout = 1 s, link.handshake-timeout = 1 s,"
            + " link.give-up-after = 1 h }");
    open(node);
    Session session = openSession();
    node.saves = false;
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));

    node.answersHello = false;
    node.connection.close();

    assertThat(failure(pausing)).hasMessageContaining("was not paused and continues");
    assertThat(info().state()).isEqualTo(MachineState.RECONNECTING);
    node.answersHello = true;
    session.submit(1, 10, List.of());
    assertThat(session.executed()).isEqualTo(1);
    assertThat(info().state()).isEqualTo(MachineState.READY);
  }

  @Test
  void losesTheNodeWhenTheLinkDoesNotComeBack() throws Exception {
    configure("remora.link.give-up-after = 1500 ms");
    open(node);
    Session session = openSession();
    realize(session, new StorageBirth(8, 800, 0));
    node.execution = (sequence, batch) -> null;
    session.submit(2, 10, List.of());
    long start = System.nanoTime();

    node.closeSockets();

    assertThat(session.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("lost the link to its node")
        .hasMessageContaining("1500 ms")
        .hasMessageContaining("remora.link.give-up-after")
        .hasMessageContaining("of session " + session.id + " batch 1 was acknowledged last");
    assertThat(Duration.ofNanos(System.nanoTime() - start)).isGreaterThan(Duration.ofMillis(1400));
    await().atMost(LIMIT).until(() -> session.released.get() == 2);
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
    assertThat(storage(session, 8).state()).isEqualTo(StorageState.LOST);
    assertThat(storage(session, 8).reason()).contains("remora.link.give-up-after");

    success(ask(MachineProtocol.Close::new, Done.class));
    assertThat(
            failure(
                ask(to -> new MachineProtocol.GetStorage(session.id, 8, to), StorageInfo.class)))
        .isInstanceOf(MachineStateException.class);
    TestNode next = new TestNode();
    assertThat(open(next).state()).isEqualTo(MachineState.READY);
    next.closeSockets();
  }

  @Test
  void closesAtOnceWhileTheLinkIsBroken() {
    open(node);
    openSession();
    node.answersHello = false;
    node.toRefuse.set(Integer.MAX_VALUE);
    node.connection.close();
    await().atMost(LIMIT).until(() -> info().state() == MachineState.RECONNECTING);

    success(ask(MachineProtocol.Close::new, Done.class));

    assertThat(info().state()).isEqualTo(MachineState.STOPPED);
  }

  @Test
  void saysAtOnceThatTheNodeEndedWhileTheLinkWasBroken() throws Exception {
    configure("remora.link.give-up-after = 1 h");
    open(node);
    Session session = openSession();
    node.toRefuse.set(Integer.MAX_VALUE);
    node.connection.close();
    await().atMost(LIMIT).until(() -> info().state() == MachineState.RECONNECTING);

    node.exit.complete(new NodeExit(137, List.of("Killed")));

    assertThat(session.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("exit code 137");
  }

  @Test
  void losesASessionThatTheNodeDoesNotHaveAnyMore() throws Exception {
    open(node);
    Session forgotten = openSession();
    Session known = openSession();
    node.received.remove(forgotten.id);

    node.connection.close();

    assertThat(forgotten.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("does not have session " + forgotten.id);
    known.submit(1, 10, List.of());
    assertThat(known.executed()).isEqualTo(1);
  }

  @Test
  void confirmsWhatItHasReceived() throws Exception {
    open(node);
    Session session = openSession();
    for (int i = 1; i <= 64; i++) {
      session.submit(i, 10, List.of());
    }
    await().atMost(LIMIT).until(() -> node.confirmed.getOrDefault(session.id, 0L) >= 64);

    session.submit(65, 10, List.of());
    await().atMost(LIMIT).until(() -> node.confirmed.getOrDefault(session.id, 0L) == 65);
  }

  @Test
  void saysWhatTheNodeSaidWhenItEndsTheLink() throws Exception {
    open(node);
    Session session = openSession();

    node.sayGoodbye("maintenance in five minutes");

    assertThat(session.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("maintenance in five minutes");
  }

  @Test
  void failsWhenTheNodeAcknowledgesWhatWasNotSent() throws Exception {
    open(node);
    Session session = openSession();
    node.connection.send(OutboundFrame.empty(FrameType.ACK, session.id, 1));

    assertThat(session.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("acknowledged batch 1");
  }
}
