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
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.StaleReferenceException;
import io.remora.runtime.StorageBirth;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.LongStream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Sessions of a machine, and what the machine knows about their storages. */
@Tag("fast")
@Timeout(60)
class MachineSessionsTest extends MachineFixture {
  // Sessions

  @Test
  void movesBatchesValuesAndReportsBetweenSessionAndNode() throws Exception {
    open(node);
    Session session = openSession();
    BlockingQueue<String> executed = new LinkedBlockingQueue<>();
    node.execution =
        (sequence, batch) -> {
          executed.add(sequence + " " + batch.length + " " + batch[1]);
          return ReportBytes.empty();
        };

    for (int i = 1; i <= 200; i++) {
      session.submit(i, 10 + i, List.of());
    }
    for (int i = 1; i <= 200; i++) {
      assertThat(session.executed()).isEqualTo(i);
      assertThat(executed.remove()).isEqualTo(i + " " + (10 + i) + " " + pattern(2, i).get(1));
    }
    ByteBuffer value = pattern(3_000_000, 9);
    node.sendValue(session.id, 12, value);

    await().atMost(LIMIT).until(() -> session.valueBytes.get() == 3_000_000);
    assertThat(session.value.equals(value)).isTrue();
    await().atMost(LIMIT).until(() -> session.released.get() == 200);
  }

  @Test
  void letsOpenSessionWaitUntilTheMachineIsReady() {
    CompletableFuture<ProvisionedNode> coming = new CompletableFuture<>();
    TestProvider.plan(name, (spec, context) -> coming);
    ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class);
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> reply =
        ask(MachineProtocol.OpenSession::new, MachineProtocol.SessionOpened.class);
    reply.expectNoMessage(Duration.ofMillis(100));

    coming.complete(node);

    assertThat(success(reply).machine().state()).isEqualTo(MachineState.READY);
  }

  @Test
  void refusesSessionsOfAMachineThatIsNotOpen() {
    assertThat(failure(ask(MachineProtocol.OpenSession::new, MachineProtocol.SessionOpened.class)))
        .isInstanceOf(MachineStateException.class)
        .hasMessage("machine " + name + " is STOPPED: never opened");
    assertThat(failure(ask(to -> new MachineProtocol.GetStorage(1, 2, to), StorageInfo.class)))
        .isInstanceOf(MachineStateException.class);
    assertThat(failure(ask(to -> new MachineProtocol.CloseSession(1, to), Done.class)))
        .isInstanceOf(MachineStateException.class);
  }

  @Test
  void closesASessionAfterItsBatches() throws Exception {
    open(node);
    Session session = openSession();
    for (int i = 1; i <= 50; i++) {
      session.submit(i, 100_000, List.of());
    }

    success(ask(to -> new MachineProtocol.CloseSession(session.id, to), Done.class));

    assertThat(session.executions.size()).isEqualTo(50);
    await().atMost(LIMIT).until(() -> session.released.get() == 50);
    assertThat(session.lost).isNotDone();
    assertThatThrownBy(() -> session.submit(51, 1, List.of()))
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("is closed");
    assertThatThrownBy(() -> LocalSessions.get(kit.system()).attach(session.id, session))
        .isInstanceOf(MachineStateException.class);
    assertThat(failure(ask(to -> new MachineProtocol.CloseSession(session.id, to), Done.class)))
        .hasMessageContaining("has no session");
    assertThat(info().state()).isEqualTo(MachineState.READY);
  }

  @Test
  void handsOnTheNodesRefusalOfASession() {
    open(node);
    node.sessionRefusal = Refused.newBuilder().setMessage("one session is enough").build();

    assertThat(failure(ask(MachineProtocol.OpenSession::new, MachineProtocol.SessionOpened.class)))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("one session is enough");
  }

  @Test
  void endsOnlyTheSessionThatTheNodeEnds() throws Exception {
    open(node);
    Session broken = openSession();
    Session sound = openSession();

    node.endSession(broken.id, Reason.REASON_MALFORMED, "batch 1 has an unknown record");

    assertThat(broken.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("batch 1 has an unknown record");
    sound.submit(1, 10, List.of());
    assertThat(sound.executed()).isEqualTo(1);
    assertThat(info().state()).isEqualTo(MachineState.READY);
  }

  // Storages

  @Test
  void followsStoragesFromLazyToFreed() throws Exception {
    open(node);
    Session session = openSession();
    StorageBirth lazy = new StorageBirth(7, 400, 0);
    StorageBirth real = new StorageBirth(8, 800, 0);
    node.execution =
        (sequence, batch) ->
            switch ((int) sequence) {
              case 1 -> ReportBytes.of(List.of(real));
              case 2 -> ReportBytes.of(List.of(lazy));
              default -> ReportBytes.of(List.of(), 7);
            };

    session.submit(1, 10, List.of(lazy, real));
    assertThat(session.executed()).isEqualTo(1);
    await().atMost(LIMIT).until(() -> info().liveStorages() == 2);
    assertThat(storage(session, 7))
        .isEqualTo(new StorageInfo(7, StorageState.LAZY, 400, 0, session.id));
    assertThat(storage(session, 8).state()).isEqualTo(StorageState.REALIZED);

    session.submit(2, 10, List.of());
    await().atMost(LIMIT).until(() -> storage(session, 7).state() == StorageState.REALIZED);

    session.submit(3, 10, List.of());
    await().atMost(LIMIT).until(() -> info().liveStorages() == 1);
    assertThat(
            failure(
                ask(to -> new MachineProtocol.GetStorage(session.id, 7, to), StorageInfo.class)))
        .isInstanceOf(StaleReferenceException.class)
        .hasMessageContaining("has no storage 7");

    session.submit(4, 10, List.of(), 8);
    await().atMost(LIMIT).until(() -> info().liveStorages() == 0);
  }

  @Test
  void knowsWhatABatchHasChangedOnceItIsSaidToBeExecuted() throws Exception {
    open(node);
    Session session = openSession();
    StorageBirth real = new StorageBirth(8, 800, 0);
    node.execution = (sequence, batch) -> ReportBytes.of(List.of(real));
    CompletableFuture<StorageState> state = new CompletableFuture<>();
    session.atExecution = () -> state.complete(storage(session, 8).state());

    session.submit(1, 10, List.of(real));

    assertThat(state.get(LIMIT.toSeconds(), TimeUnit.SECONDS)).isEqualTo(StorageState.REALIZED);
  }

  @Test
  void givesActorsOnlyToStoragesThatLiveLong() throws Exception {
    open(node);
    Session session = openSession();
    long born = System.nanoTime();
    session.submit(1, 10, List.of(new StorageBirth(1, 10, 0), new StorageBirth(2, 10, 0)), 1);
    await().atMost(LIMIT).until(() -> info().liveStorages() == 1);

    await().atMost(LIMIT).until(() -> children().contains("storage-" + session.id + "-2"));
    assertThat(Duration.ofNanos(System.nanoTime() - born))
        .isGreaterThan(STORAGE_ACTOR_AFTER.minusMillis(1)); // births have whole milliseconds
    assertThat(children()).doesNotContain("storage-" + session.id + "-1");

    session.submit(2, 10, List.of(), 2);
    await().atMost(LIMIT).until(() -> children().stream().noneMatch(c -> c.startsWith("storage-")));
  }

  @Test
  void answersItselfForStoragesThatNoActorIsLeftFor() throws Exception {
    open(node);
    Session session = openSession();
    session.submit(
        1, 10, LongStream.rangeClosed(1, 5).mapToObj(id -> new StorageBirth(id, 10, 0)).toList());
    await().atMost(LIMIT).until(() -> info().liveStorages() == 5);

    for (long id = 1; id <= 5; id++) {
      assertThat(storage(session, id))
          .isEqualTo(new StorageInfo(id, StorageState.LAZY, 10, 0, session.id));
    }
    assertThat(children().stream().filter(c -> c.startsWith("storage-"))).hasSize(3);

    session.submit(2, 10, List.of(), 1);
    await()
        .atMost(LIMIT)
        .until(() -> children().stream().anyMatch(c -> c.matches("storage-.*-[45]")));
  }
}
