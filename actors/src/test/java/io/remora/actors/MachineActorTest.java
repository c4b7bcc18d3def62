// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.pattern;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import akka.Done;
import akka.actor.testkit.typed.javadsl.ActorTestKit;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SessionPosition;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.NodeUsage;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.ResourceExhaustedException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.StaleReferenceException;
import io.remora.runtime.StorageBirth;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import java.util.stream.LongStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("fast")
@Timeout(60)
class MachineActorTest {

  private static final Config CONFIG =
      ConfigFactory.parseString(
              """
              akka.actor.provider = local
              remora.machine {
                exit-report-wait = 200 ms
                storage-actor-after = 200 ms
                max-storage-actors = 3
                close-timeout = 2 s
                pause-timeout = 1 s
                resume-retry = 300 ms
                forget-failed-after = 2 s
              }
              remora.link {
                handshake-timeout = 500 ms
                connect-timeout = 500 ms
                give-up-after = 1500 ms
              }
              """)
          .withFallback(ConfigFactory.load());

  private static final Duration STORAGE_ACTOR_AFTER = Duration.ofMillis(200); // as configured above
  private static final Duration REPLY_LIMIT = Duration.ofSeconds(10);
  private static final ActorTestKit KIT = ActorTestKit.create("machines", CONFIG);
  private static final AtomicInteger NAMES = new AtomicInteger();

  private final String name = "m" + NAMES.incrementAndGet();
  private final TestNode node = new TestNode();
  private final ActorRef<MachineProtocol.Command> machine =
      KIT.spawn(MachineActor.create(name, ActorsSettings.from(CONFIG)), name);
  private final TestProbe<MachineInfo> states = KIT.createTestProbe(MachineInfo.class);

  @AfterAll
  static void shutdown() {
    KIT.shutdownTestKit();
  }

  @AfterEach
  void stop() {
    KIT.stop(machine, LIMIT);
    node.closeSockets();
  }

  // Opening

  @Test
  void getsANodeAndConnectsToIt() throws Exception {
    assertThat(info().state()).isEqualTo(MachineState.STOPPED);
    assertThat(info().reason()).isEqualTo("never opened");

    MachineInfo opened = open(node);

    assertThat(opened.state()).isEqualTo(MachineState.READY);
    assertThat(opened.name()).isEqualTo(name);
    assertThat(opened.provider()).isEqualTo("test");
    assertThat(opened.libtorchVersion()).isEqualTo("2.10.0");
    assertThat(opened.computeThreads()).isEqualTo(3);
    assertThat(opened.devices()).containsExactly(new DeviceInfo("T4 (simulated)", "cpu", 16));
    assertThat(info()).isEqualTo(opened);
    assertThat(node.hello.getMachine()).isEqualTo(name);
    assertThat(node.hello.getProtocolVersion()).isEqualTo(FrameHeader.PROTOCOL_VERSION);
    assertThat(node.hello.getLibtorchVersion()).isEqualTo("2.10.0");
  }

  @Test
  void isInEachStateOnTheWay() {
    CompletableFuture<ProvisionedNode> coming = new CompletableFuture<>();
    node.answersHello = false;
    TestProvider.plan(name, (spec, context) -> coming);
    ask(replyTo -> new MachineProtocol.Open(spec(), replyTo), MachineInfo.class);

    assertThat(info().state()).isEqualTo(MachineState.PROVISIONING);
    coming.complete(node);
    await().atMost(LIMIT).until(() -> info().state() == MachineState.CONNECTING);
  }

  @Test
  void givesTheProviderTheMachinesOwnSettingsBeforeTheSystems() {
    BlockingQueue<Config> seen = new LinkedBlockingQueue<>();
    TestProvider.plan(
        name,
        (spec, context) -> {
          seen.add(context.config());
          context.progress().accept("looking for a free node");
          return CompletableFuture.completedFuture(node);
        });
    MachineSpec spec =
        new MachineSpec(name, "test", null, 1, null, LIMIT, "remora.provider.test.threads = 7");

    success(ask(replyTo -> new MachineProtocol.Open(spec, replyTo), MachineInfo.class));

    Config config = seen.remove();
    assertThat(config.getInt("remora.provider.test.threads")).isEqualTo(7);
    assertThat(config.getInt("remora.link.coalesce-batches")).isEqualTo(64);
  }

  @Test
  void refusesToOpenWhatIsOpenOrUnderAnotherName() {
    open(node);

    assertThat(
            failure(ask(replyTo -> new MachineProtocol.Open(spec(), replyTo), MachineInfo.class)))
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("machine " + name + " is open already: it is READY");

    ActorRef<MachineProtocol.Command> other =
        KIT.spawn(MachineActor.create("other", ActorsSettings.from(CONFIG)));
    TestProbe<StatusReply<MachineInfo>> probe = probe();
    other.tell(new MachineProtocol.Open(spec(), probe.getRef()));
    assertThat(probe.receiveMessage().getError()).isInstanceOf(MachineStateException.class);
  }

  @Test
  void namesTheProvidersFoundWhenItsOwnIsUnknown() {
    MachineSpec spec = new MachineSpec(name, "nimbus", null, 1, null, LIMIT);

    assertThat(failure(ask(replyTo -> new MachineProtocol.Open(spec, replyTo), MachineInfo.class)))
        .isExactlyInstanceOf(ProviderException.class)
        .hasMessageContaining("unknown provider \"nimbus\"")
        .hasMessageContaining("test");
    assertThat(info().state()).isEqualTo(MachineState.FAILED);
    assertThat(info().reason()).contains("nimbus");
  }

  @Test
  void handsOnTheProvidersErrorsAndCanBeOpenedAgain() {
    ResourceExhaustedException none = new ResourceExhaustedException("no H100 left");
    TestProvider.plan(name, (spec, context) -> CompletableFuture.failedFuture(none));
    assertThat(failure(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class)))
        .isSameAs(none);

    TestProvider.plan(
        name,
        (spec, context) -> {
          throw new IllegalStateException("a bug");
        });
    assertThat(failure(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class)))
        .isExactlyInstanceOf(ProviderException.class)
        .hasMessageContaining("a bug");

    assertThat(open(node).state()).isEqualTo(MachineState.READY);
  }

  @Test
  void isNotFailedForEverWhenItCouldNotBeOpened() {
    TestProvider.plan(
        name, (spec, context) -> CompletableFuture.failedFuture(new ProviderException("no luck")));
    assertThat(failure(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class)))
        .hasMessage("no luck");
    assertThat(info().state()).isEqualTo(MachineState.FAILED);

    await().atMost(LIMIT).until(() -> info().state() == MachineState.STOPPED);

    assertThat(info().reason()).isEqualTo("not opened: no luck");
    assertThat(open(node).state()).isEqualTo(MachineState.READY);
  }

  @Test
  void limitsTheTimeOfProvisioningAndEndsANodeThatComesTooLate() {
    CompletableFuture<ProvisionedNode> coming = new CompletableFuture<>();
    TestProvider.plan(name, (spec, context) -> coming);
    MachineSpec spec = new MachineSpec(name, "test", null, 1, null, Duration.ofMillis(200));

    assertThat(failure(ask(to -> new MachineProtocol.Open(spec, to), MachineInfo.class)))
        .isInstanceOf(ProvisioningTimeoutException.class)
        .hasMessageContaining("within 200 ms")
        .hasMessageContaining("remora.machine.open-timeout");
    coming.complete(node);

    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
    assertThat(info().state()).isEqualTo(MachineState.FAILED);
  }

  @Test
  void limitsTheTimeOfTheHandshake() {
    node.answersHello = false;

    assertThat(openFailure())
        .isExactlyInstanceOf(ProviderException.class)
        .hasMessageContaining("remora.link.handshake-timeout");
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
  }

  @Test
  void saysWhenTheNodeCannotBeReached() {
    node.closeSockets();

    assertThat(openFailure())
        .isExactlyInstanceOf(ProviderException.class)
        .hasMessageContaining("cannot reach its node");
  }

  @Test
  void saysWhyTheNodeRefused() {
    node.expectedToken = LaunchToken.random();
    assertThat(openFailure())
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("wrong token");

    TestNode other = new TestNode();
    other.refusal =
        Refused.newBuilder()
            .setReason(Reason.REASON_LIBTORCH_VERSION)
            .setMessage("libtorch 2.10 wanted")
            .build();
    plan(other);
    assertThat(failure(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class)))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("libtorch 2.10 wanted");
  }

  @Test
  void saysHowANodeEndedBeforeItWasConnected() {
    node.answersHello = false;
    plan(node);
    TestProbe<StatusReply<MachineInfo>> reply =
        ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class);
    await().atMost(LIMIT).until(() -> node.hello != null);

    node.die(3, "libtorch_cpu.so: cannot open shared object file");

    assertThat(failure(reply))
        .isExactlyInstanceOf(ProviderException.class)
        .hasMessageContaining("exit code 3")
        .hasMessageContaining("cannot open shared object file");
  }

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
    assertThat(session.released).hasValue(50);
    assertThat(session.lost).isNotDone();
    assertThatThrownBy(() -> session.submit(51, 1, List.of()))
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("is closed");
    assertThatThrownBy(() -> LocalSessions.get(KIT.system()).attach(session.id, session))
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
    session.submit(1, 10, List.of(new StorageBirth(1, 10, 0), new StorageBirth(2, 10, 0)));
    session.submit(2, 10, List.of(), 1);
    await().atMost(LIMIT).until(() -> info().liveStorages() == 1);

    await().atMost(LIMIT).until(() -> children().contains("storage-" + session.id + "-2"));
    assertThat(Duration.ofNanos(System.nanoTime() - born)).isGreaterThan(STORAGE_ACTOR_AFTER);
    assertThat(children()).doesNotContain("storage-" + session.id + "-1");

    session.submit(3, 10, List.of(), 2);
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

  // Loss

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
    assertThat(session.released).hasValue(1);
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
    node.toRefuse.set(3);

    node.connection.close();

    await().atMost(LIMIT).until(() -> info().state() == MachineState.RECONNECTING);
    for (int i = 6; i <= 10; i++) {
      session.submit(i, 10, List.of());
    }
    other.submit(1, 10, List.of());
    for (int i = 6; i <= 10; i++) {
      assertThat(session.executed()).isEqualTo(i);
    }
    assertThat(other.executed()).isEqualTo(1);
    assertThat(node.hello.getToken()).isEmpty();
    assertThat(node.hello.getSessionsList())
        .extracting(SessionPosition::getLastAcknowledgedSequence)
        .containsExactlyInAnyOrder(5L, 0L);
    await().atMost(LIMIT).until(() -> info().state() == MachineState.READY);
    assertThat(info().reason()).contains("there again").contains("4 attempt");
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
        // In the middle of what is under way.
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
    open(node);
    Session session = openSession();
    node.saves = false;
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));

    node.answersHello = false;
    node.connection.close();

    assertThat(failure(pausing)).hasMessageContaining("was not paused and goes on");
    assertThat(info().state()).isEqualTo(MachineState.RECONNECTING);
    node.answersHello = true;
    session.submit(1, 10, List.of());
    assertThat(session.executed()).isEqualTo(1);
    assertThat(info().state()).isEqualTo(MachineState.READY);
  }

  @Test
  void losesTheNodeWhenTheLinkDoesNotComeBack() throws Exception {
    open(node);
    Session session = openSession();
    StorageBirth real = new StorageBirth(8, 800, 0);
    node.execution = (sequence, batch) -> ReportBytes.of(List.of(real));
    session.submit(1, 10, List.of(real));
    assertThat(session.executed()).isEqualTo(1);
    await().atMost(LIMIT).until(() -> storage(session, 8).state() == StorageState.REALIZED);
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
    assertThat(Duration.ofNanos(System.nanoTime() - start))
        .isBetween(Duration.ofMillis(1400), LIMIT);
    assertThat(session.released).hasValue(2);
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
    node.toRefuse.set(1000);
    node.connection.close();
    await().atMost(LIMIT).until(() -> info().state() == MachineState.RECONNECTING);

    success(ask(MachineProtocol.Close::new, Done.class));

    assertThat(info().state()).isEqualTo(MachineState.STOPPED);
  }

  @Test
  void saysAtOnceThatTheNodeEndedWhileTheLinkWasBroken() throws Exception {
    open(node);
    Session session = openSession();
    node.toRefuse.set(1000);
    node.connection.close();
    await().atMost(LIMIT).until(() -> info().state() == MachineState.RECONNECTING);

    node.exit.complete(new NodeExit(137, List.of("Killed")));

    assertThat(session.lost.get(1, TimeUnit.SECONDS))
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

  // Closing

  @Test
  void closesSessionsLinkAndNodeAndCanBeOpenedAgain() throws Exception {
    open(node);
    Session session = openSession();

    success(ask(MachineProtocol.Close::new, Done.class));

    assertThat(session.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("was closed");
    assertThat(node.terminations).hasValue(1);
    assertThat(node.heard)
        .containsSubsequence("hello of " + name, "open " + session.id, "goodbye", "terminate");
    assertThat(info().state()).isEqualTo(MachineState.STOPPED);
    assertThat(info().reason()).isEqualTo("closed by the program");
    success(ask(MachineProtocol.Close::new, Done.class));

    TestNode next = new TestNode();
    assertThat(open(next).state()).isEqualTo(MachineState.READY);
    next.closeSockets();
  }

  @Test
  void letsOpenWaitWhileItCloses() throws Exception {
    open(node);
    node.terminates = false;
    TestProbe<StatusReply<Done>> closed = ask(MachineProtocol.Close::new, Done.class);
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
    TestNode next = new TestNode();
    plan(next);
    TestProbe<StatusReply<MachineInfo>> opened =
        ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class);
    opened.expectNoMessage(Duration.ofMillis(100));

    node.terminated.complete(Done.getInstance());

    success(closed);
    assertThat(success(opened).state()).isEqualTo(MachineState.READY);
    next.closeSockets();
  }

  @Test
  void closesWhileItOpens() {
    CompletableFuture<ProvisionedNode> coming = new CompletableFuture<>();
    TestProvider.plan(name, (spec, context) -> coming);
    TestProbe<StatusReply<MachineInfo>> opened =
        ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class);
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> session =
        ask(MachineProtocol.OpenSession::new, MachineProtocol.SessionOpened.class);

    success(ask(MachineProtocol.Close::new, Done.class));

    assertThat(failure(opened)).isInstanceOf(MachineStateException.class);
    assertThat(failure(session)).isInstanceOf(MachineStateException.class);
    coming.complete(node);
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
  }

  @Test
  void namesTheNodeThatDoesNotEnd() {
    open(node);
    node.terminates = false;

    assertThat(failure(ask(MachineProtocol.Close::new, Done.class)))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("test node")
        .hasMessageContaining("remora.machine.close-timeout")
        .hasMessageContaining("may still run");
  }

  @Test
  void endsTheNodeAndItsSessionsWhenTheActorIsStopped() throws Exception {
    open(node);
    Session session = openSession();

    KIT.stop(machine, LIMIT);

    assertThat(session.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(MachineStateException.class);
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
  }

  // Pausing

  @Test
  void savesEndsTheNodeAndGoesOnInTheNext() throws Exception {
    open(node);
    Session session = openSession();
    StorageBirth real = new StorageBirth(8, 800, 0);
    node.execution = (sequence, batch) -> ReportBytes.of(List.of(real));
    session.submit(1, 10, List.of(real));
    assertThat(session.executed()).isEqualTo(1);
    await().atMost(LIMIT).until(() -> storage(session, 8).state() == StorageState.REALIZED);

    assertThat(success(ask(MachineProtocol.Pause::new, MachineInfo.class)).state())
        .isEqualTo(MachineState.PAUSED);

    assertThat(node.terminations.get()).isEqualTo(1);
    assertThat(storage(session, 8).state()).isEqualTo(StorageState.OFFLOADED);
    TestNode next = new TestNode();
    plan(next);
    session.submit(2, 10, List.of());
    assertThat(session.executed()).isEqualTo(2);
    assertThat(next.heard).contains("restore " + session.id);
    assertThat(next.executed).isEqualTo(2);
    assertThat(info().state()).isEqualTo(MachineState.READY);
    assertThat(storage(session, 8).state()).isEqualTo(StorageState.REALIZED);
    await().atMost(LIMIT).until(() -> next.heard.contains("forget"));
    next.closeSockets();
  }

  @Test
  void countsWhatAllItsNodesHaveCost() {
    open(node);
    assertThat(stats()).as("nobody counts that").doesNotContainKeys("gpu.seconds", "cost.dollars");
    node.usage = new NodeUsage(60, 0.5);
    assertThat(stats()).containsEntry("gpu.seconds", 60.0).containsEntry("cost.dollars", 0.5);

    success(ask(MachineProtocol.Pause::new, MachineInfo.class));
    TestNode next = new TestNode();
    next.usage = new NodeUsage(5, 0.25);
    plan(next);
    success(ask(MachineProtocol.Resume::new, MachineInfo.class));
    assertThat(stats()).containsEntry("gpu.seconds", 65.0).containsEntry("cost.dollars", 0.75);

    success(ask(MachineProtocol.Close::new, Done.class));
    assertThat(stats()).as("when it is closed").containsEntry("cost.dollars", 0.75);
    TestNode again = new TestNode();
    open(again);
    assertThat(stats()).as("when it is opened anew").doesNotContainKey("cost.dollars");
    success(ask(MachineProtocol.Close::new, Done.class));
  }

  private Map<String, Double> stats() {
    TestProbe<MachineStats> probe = KIT.createTestProbe();
    machine.tell(new MachineProtocol.GetStats(probe.getRef()));
    return probe.receiveMessage().values();
  }

  @Test
  void whatIsSubmittedWhileItPausesWaitsAndWakesIt() throws Exception {
    open(node);
    Session session = openSession();
    node.saves = false;
    session.submit(1, 10, List.of());
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));
    assertThat(info().state()).isEqualTo(MachineState.PAUSING);
    session.submit(2, 10, List.of());
    session.submit(3, 10, List.of());
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening =
        ask(MachineProtocol.OpenSession::new, MachineProtocol.SessionOpened.class);
    TestNode next = new TestNode();
    plan(next);

    node.answerSave("");

    success(pausing);
    assertThat(session.executed()).isEqualTo(1);
    assertThat(session.executed()).isEqualTo(2);
    assertThat(session.executed()).isEqualTo(3);
    assertThat(node.executed).isEqualTo(1);
    success(opening);
    assertThat(info().state()).isEqualTo(MachineState.READY);
    next.closeSockets();
  }

  @Test
  void goesOnWhenItCannotBePausedAndSaysWhy() throws Exception {
    open(node);
    Session session = openSession();
    node.saves = false;

    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));
    session.submit(1, 10, List.of());
    node.answerSave("no space left on device");
    assertThat(failure(pausing))
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("was not paused and goes on: no space left on device");
    assertThat(session.executed()).isEqualTo(1);

    assertThat(failure(ask(MachineProtocol.Pause::new, MachineInfo.class)))
        .hasMessageContaining("within 1000 ms (remora.machine.pause-timeout)");
    node.heard.clear();
    node.answerSave("");
    await().atMost(LIMIT).until(() -> node.heard.contains("forget"));

    node.saves = true;
    node.terminates = false;
    assertThat(failure(ask(MachineProtocol.Pause::new, MachineInfo.class)))
        .hasMessageContaining("did not end within 2000 ms");
    session.submit(2, 10, List.of());
    assertThat(session.executed()).isEqualTo(2);
    assertThat(info().state()).isEqualTo(MachineState.READY);
    assertThat(info().reason()).startsWith("not paused: ");
  }

  @Test
  void staysPausedAndTriesAgainWhileTheProviderHasNoNode() throws Exception {
    open(node);
    Session session = openSession();
    success(ask(MachineProtocol.Pause::new, MachineInfo.class));
    ResourceExhaustedException none = new ResourceExhaustedException("no H100 left");
    TestProvider.plan(name, (spec, context) -> CompletableFuture.failedFuture(none));

    assertThat(failure(ask(MachineProtocol.Resume::new, MachineInfo.class))).isSameAs(none);
    assertThat(failure(ask(MachineProtocol.OpenSession::new, MachineProtocol.SessionOpened.class)))
        .hasMessageContaining("no H100 left");
    session.submit(1, 10, List.of());
    await().atMost(LIMIT).until(() -> info().reason().contains("no H100 left"));
    assertThat(info().state()).isIn(MachineState.PAUSED, MachineState.PROVISIONING);
    TestNode next = new TestNode();
    plan(next);

    assertThat(session.executed()).isEqualTo(1);
    next.closeSockets();
  }

  @Test
  void aNodeThatIsLostBeforeAllIsRestoredCostsNothing() throws Exception {
    open(node);
    Session session = openSession();
    success(ask(MachineProtocol.Pause::new, MachineInfo.class));
    TestNode second = new TestNode();
    second.opens = false;
    plan(second);
    TestProbe<StatusReply<MachineInfo>> resuming =
        ask(MachineProtocol.Resume::new, MachineInfo.class);
    await().atMost(LIMIT).until(() -> second.heard.contains("restore " + session.id));

    second.die(139, "SIGSEGV");

    assertThat(failure(resuming)).hasMessageContaining("SIGSEGV");
    assertThat(info().state()).isEqualTo(MachineState.PAUSED);
    TestNode third = new TestNode();
    plan(third);
    session.submit(1, 10, List.of());
    assertThat(session.executed()).isEqualTo(1);
    third.closeSockets();
  }

  @Test
  void aSessionThatCannotBeRestoredIsLostAlone() throws Exception {
    open(node);
    Session broken = openSession();
    Session sound = openSession();
    success(ask(MachineProtocol.Pause::new, MachineInfo.class));
    TestNode next = new TestNode();
    next.opens = false;
    plan(next);
    TestProbe<StatusReply<MachineInfo>> resuming =
        ask(MachineProtocol.Resume::new, MachineInfo.class);
    await().atMost(LIMIT).until(() -> next.heard.contains("restore " + sound.id));

    next.endSession(broken.id, Reason.REASON_STATE, "a checksum is wrong");
    next.connection.send(OutboundFrame.empty(FrameType.SESSION_OPENED, sound.id, 0));

    assertThat(failure(resuming))
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("a checksum is wrong");
    assertThat(broken.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(NodeLostException.class);
    sound.submit(1, 10, List.of());
    assertThat(sound.executed()).isEqualTo(1);
    next.closeSockets();
  }

  @Test
  void pausesByItselfUnlessItIsUsed() throws Exception {
    plan(node);
    MachineSpec spec = new MachineSpec(name, "test", null, 1, Duration.ofMillis(400), LIMIT);
    success(ask(to -> new MachineProtocol.Open(spec, to), MachineInfo.class));
    Session session = openSession();
    node.saves = false;
    await().atMost(LIMIT).until(() -> info().state() == MachineState.PAUSING);
    session.submit(1, 10, List.of());
    await().atMost(LIMIT).until(() -> node.pause != null);
    node.answerSave("");
    assertThat(session.executed()).as("not paused after all").isEqualTo(1);
    assertThat(node.terminations.get()).isZero();

    node.saves = true;
    await().atMost(LIMIT).until(() -> info().state() == MachineState.PAUSED);
    assertThat(info().reason()).contains("test node has ended");
    success(ask(MachineProtocol.Close::new, Done.class));
    assertThat(info().state()).isEqualTo(MachineState.STOPPED);
  }

  @Test
  void closesSessionsOfAPausedMachineWithoutWakingIt() {
    open(node);
    Session session = openSession();
    success(ask(MachineProtocol.Pause::new, MachineInfo.class));

    success(ask(to -> new MachineProtocol.CloseSession(session.id, to), Done.class));

    assertThat(info().state()).isEqualTo(MachineState.PAUSED);
    assertThat(failure(ask(to -> new MachineProtocol.CloseSession(session.id, to), Done.class)))
        .hasMessageContaining("has no session");
  }

  @Test
  void refusesToPauseOrResumeWhatIsNotOpen() {
    assertThat(failure(ask(MachineProtocol.Pause::new, MachineInfo.class)))
        .isInstanceOf(MachineStateException.class);
    assertThat(failure(ask(MachineProtocol.Resume::new, MachineInfo.class)))
        .isInstanceOf(MachineStateException.class);
  }

  @Test
  void goesOnEndingItsNodeWhenThatIsSavedTwice() throws Exception {
    open(node);
    Session session = openSession();
    node.terminates = false;
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);

    node.answerSave("no space left on device");
    node.answerSave("");
    await().atMost(LIMIT).until(() -> heardBySession(session));
    assertThat(info().state()).isEqualTo(MachineState.PAUSING);
    node.terminated.complete(Done.getInstance());

    assertThat(success(pausing).state()).isEqualTo(MachineState.PAUSED);
    assertThat(node.terminations).hasValue(1);
  }

  /** Whether the machine has come to all that the node has sent. */
  private boolean heardBySession(Session session) {
    node.sendValue(session.id, 1, pattern(10, 1));
    return session.valueBytes.get() > 0;
  }

  // Programs of other members

  @Test
  void hasHostsThatJoinWhileItPausesSave() throws Exception {
    open(node);
    Session session = openSession();
    TestProbe<SessionHost.Command> first = join(true);
    node.saves = false;
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    SessionHost.Save asked = first.expectMessageClass(SessionHost.Save.class);
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));

    TestProbe<SessionHost.Command> second = join(true);
    SessionHost.Save askedLater = second.expectMessageClass(SessionHost.Save.class);

    assertThat(askedLater.pause()).isNotEqualTo(asked.pause());
    asked.replyTo().tell(new MachineProtocol.HostSaved(first.getRef(), asked.pause(), ""));
    node.answerSave("");
    pausing.expectNoMessage(Duration.ofMillis(100));
    askedLater
        .replyTo()
        .tell(new MachineProtocol.HostSaved(second.getRef(), askedLater.pause(), ""));
    assertThat(success(pausing).state()).isEqualTo(MachineState.PAUSED);
    first.expectMessageClass(SessionHost.Offline.class);
    second.expectMessageClass(SessionHost.Offline.class);
  }

  @Test
  void givesHostsItsOwnSettingsAndTheTlsThatTheProviderHasAgreedOn() {
    TestNode pinned = TestNode.pinned();
    plan(pinned);
    String settings =
        "remora.link { heartbeat-interval = 1 s, tls.certificate = ${?TEST_NOWHERE} }, other = 1";
    MachineSpec spec = new MachineSpec(name, "test", null, 1, null, LIMIT, settings);
    success(ask(to -> new MachineProtocol.Open(spec, to), MachineInfo.class));

    SessionHost.Way way = join(false).expectMessageClass(SessionHost.Way.class);

    Config given = ConfigFactory.parseString(way.settings());
    assertThat(given.getDuration("remora.link.heartbeat-interval")).hasSeconds(1);
    assertThat(given.hasPath("other")).isFalse();
    assertThat(given.getConfig("remora.link.tls"))
        .isEqualTo(pinned.tls().orElseThrow().settings().getConfig("remora.link.tls"));
    pinned.closeSockets();
  }

  /** A host that says that it is there, as a member elsewhere would. */
  private TestProbe<SessionHost.Command> join(boolean linked) {
    TestProbe<SessionHost.Command> host = KIT.createTestProbe();
    machine.tell(new MachineProtocol.HostPresent(host.getRef(), linked, 0));
    return host;
  }

  // Helpers

  private MachineSpec spec() {
    return new MachineSpec(name, "test", null, 1, null, LIMIT);
  }

  private void plan(TestNode planned) {
    TestProvider.plan(name, (spec, context) -> CompletableFuture.completedFuture(planned));
  }

  private MachineInfo open(TestNode planned) {
    plan(planned);
    return success(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class));
  }

  private Throwable openFailure() {
    plan(node);
    return failure(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class));
  }

  private MachineInfo info() {
    machine.tell(new MachineProtocol.GetState(states.getRef()));
    return states.receiveMessage(REPLY_LIMIT);
  }

  private StorageInfo storage(Session session, long id) {
    return success(
        ask(to -> new MachineProtocol.GetStorage(session.id, id, to), StorageInfo.class));
  }

  private <T> TestProbe<StatusReply<T>> ask(
      Function<ActorRef<StatusReply<T>>, MachineProtocol.Command> command, Class<T> unused) {
    TestProbe<StatusReply<T>> probe = probe();
    machine.tell(command.apply(probe.getRef()));
    return probe;
  }

  private static <T> TestProbe<StatusReply<T>> probe() {
    return KIT.createTestProbe();
  }

  private static <T> T success(TestProbe<StatusReply<T>> probe) {
    StatusReply<T> reply = probe.receiveMessage(REPLY_LIMIT);
    assertThat(reply.isSuccess()).as(reply::toString).isTrue();
    return reply.getValue();
  }

  private static Throwable failure(TestProbe<? extends StatusReply<?>> probe) {
    StatusReply<?> reply = probe.receiveMessage(REPLY_LIMIT);
    assertThat(reply.isError()).as(reply::toString).isTrue();
    return reply.getError();
  }

  private List<String> children() {
    akka.actor.ActorRef classic = akka.actor.typed.javadsl.Adapter.toClassic(machine);
    scala.collection.immutable.Iterable<akka.actor.ActorRef> refs =
        ((akka.actor.ActorRefWithCell) classic).underlying().childrenRefs().children();
    return scala.jdk.javaapi.CollectionConverters.asJava(refs.toList()).stream()
        .map(ref -> ref.path().name())
        .toList();
  }

  private Session openSession() {
    MachineProtocol.SessionOpened opened =
        success(ask(MachineProtocol.OpenSession::new, MachineProtocol.SessionOpened.class));
    return new Session(opened.session());
  }

  /** The program's side of a session. */
  private static final class Session implements SessionListener {

    final long id;
    final BatchSink sink;
    final BlockingQueue<Long> executions = new LinkedBlockingQueue<>();
    final CompletableFuture<RemoraException> lost = new CompletableFuture<>();
    final AtomicInteger released = new AtomicInteger();
    final AtomicInteger valueBytes = new AtomicInteger();
    final ByteBuffer value = ByteBuffer.allocateDirect(3_000_000);
    volatile Runnable atExecution = () -> {};

    Session(long id) {
      this.id = id;
      this.sink = LocalSessions.get(KIT.system()).attach(id, this);
    }

    void submit(long sequence, int bytes, List<StorageBirth> born, long... freed) {
      sink.submit(
          new Batch(
              sequence, pattern(bytes, (int) sequence), born, freed, released::incrementAndGet));
    }

    long executed() throws InterruptedException {
      Long sequence = executions.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
      assertThat(sequence).isNotNull();
      return sequence;
    }

    @Override
    public void onExecuted(long sequence, ByteBuffer report) {
      atExecution.run();
      executions.add(sequence);
    }

    @Override
    public ByteBuffer valueDestination(long request, long offset, int length) {
      return value.slice((int) offset, length);
    }

    @Override
    public void onValueReceived(long request, long offset, int length) {
      valueBytes.addAndGet(length);
    }

    @Override
    public void onLost(RemoraException cause) {
      lost.complete(cause);
    }
  }
}
