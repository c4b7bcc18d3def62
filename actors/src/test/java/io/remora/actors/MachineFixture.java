// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.pattern;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.actor.testkit.typed.javadsl.ActorTestKit;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.MachineSpec;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.StorageBirth;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;

/**
 * A machine, a provider that does what the test plans, and a node that speaks the link's protocol
 * but executes nothing.
 */
abstract class MachineFixture {

  static final Config CONFIG =
      ConfigFactory.parseString(
              """
              akka.actor.provider = local
              remora.machine {
                exit-report-wait = 200 ms
                storage-actor-after = 200 ms
                max-storage-actors = 3
                resume-retry = 300 ms
              }
              """)
          .withFallback(ConfigFactory.load());

  // As configured above.
  static final Duration STORAGE_ACTOR_AFTER = Duration.ofMillis(200);
  static final Duration RESUME_RETRY = Duration.ofMillis(300);
  static ActorTestKit kit;
  private static final AtomicInteger NAMES = new AtomicInteger();

  final String name = "m" + NAMES.incrementAndGet();
  final TestNode node = new TestNode();
  ActorRef<MachineProtocol.Command> machine =
      kit.spawn(MachineActor.create(name, ActorsSettings.from(CONFIG)), name);
  private String settings = "";
  private final TestProbe<MachineInfo> states = kit.createTestProbe(MachineInfo.class);

  @BeforeAll
  static void start() {
    kit = ActorTestKit.create("machines", CONFIG);
  }

  @AfterAll
  static void shutdown() {
    kit.shutdownTestKit();
  }

  @AfterEach
  void stop() {
    kit.stop(machine, LIMIT);
    node.closeSockets();
  }

  MachineSpec spec() {
    return new MachineSpec(name, "test", null, 1, null, LIMIT, settings);
  }

  /** Gives the machine, which was not opened yet, settings of its own, such as a short limit. */
  void configure(String changes) {
    settings = changes;
    Config config = ConfigFactory.parseString(changes).withFallback(CONFIG);
    kit.stop(machine, LIMIT);
    machine = kit.spawn(MachineActor.create(name, ActorsSettings.from(config)), name);
  }

  void plan(TestNode planned) {
    TestProvider.plan(name, (spec, context) -> CompletableFuture.completedFuture(planned));
  }

  MachineInfo open(TestNode planned) {
    plan(planned);
    return success(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class));
  }

  Throwable openFailure() {
    plan(node);
    return failure(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class));
  }

  MachineInfo info() {
    machine.tell(new MachineProtocol.GetState(states.getRef()));
    return states.receiveMessage(LIMIT);
  }

  /** The session's first batch, after which the storage is realized. */
  void realize(Session session, StorageBirth storage) throws Exception {
    node.execution = (sequence, batch) -> ReportBytes.of(List.of(storage));
    session.submit(1, 10, List.of(storage));
    assertThat(session.executed()).isEqualTo(1);
    await()
        .atMost(LIMIT)
        .until(() -> storage(session, storage.id()).state() == StorageState.REALIZED);
  }

  StorageInfo storage(Session session, long id) {
    return success(
        ask(to -> new MachineProtocol.GetStorage(session.id, id, to), StorageInfo.class));
  }

  <T> TestProbe<StatusReply<T>> ask(
      Function<ActorRef<StatusReply<T>>, MachineProtocol.Command> command, Class<T> unused) {
    TestProbe<StatusReply<T>> probe = probe();
    machine.tell(command.apply(probe.getRef()));
    return probe;
  }

  static <T> TestProbe<StatusReply<T>> probe() {
    return kit.createTestProbe();
  }

  static <T> T success(TestProbe<StatusReply<T>> probe) {
    StatusReply<T> reply = probe.receiveMessage(LIMIT);
    assertThat(reply.isSuccess()).as(reply::toString).isTrue();
    return reply.getValue();
  }

  static Throwable failure(TestProbe<? extends StatusReply<?>> probe) {
    StatusReply<?> reply = probe.receiveMessage(LIMIT);
    assertThat(reply.isError()).as(reply::toString).isTrue();
    return reply.getError();
  }

  List<String> children() {
    akka.actor.ActorRef classic = akka.actor.typed.javadsl.Adapter.toClassic(machine);
    scala.collection.immutable.Iterable<akka.actor.ActorRef> refs =
        ((akka.actor.ActorRefWithCell) classic).underlying().childrenRefs().children();
    return scala.jdk.javaapi.CollectionConverters.asJava(refs.toList()).stream()
        .map(ref -> ref.path().name())
        .toList();
  }

  Session openSession() {
    MachineProtocol.SessionOpened opened =
        success(ask(MachineProtocol.OpenSession::new, MachineProtocol.SessionOpened.class));
    return new Session(opened.session());
  }

  /** The program's side of a session. */
  static final class Session implements SessionListener {

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
      this.sink = LocalSessions.get(kit.system()).attach(id, this);
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
