// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.pattern;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.Done;
import akka.actor.testkit.typed.javadsl.ActorTestKit;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.actor.typed.ActorRef;
import akka.actor.typed.DispatcherSelector;
import akka.actor.typed.javadsl.Behaviors;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.cluster.sharding.typed.javadsl.Entity;
import akka.cluster.typed.Cluster;
import akka.cluster.typed.Join;
import akka.pattern.StatusReply;
import akka.testkit.CallingThreadDispatcher;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The sessions of a JVM on a machine elsewhere; the machine is a probe, the node speaks. */
@Tag("fast")
@Timeout(60)
class SessionHostTest {

  private static final ActorTestKit KIT =
      ActorTestKit.create("hosts", ClusterConfig.of(ConfigFactory.load(), List.of()));

  private static final TestProbe<MachineProtocol.Command> MACHINES =
      KIT.createTestProbe(MachineProtocol.Command.class);
  private static final AtomicInteger NAMES = new AtomicInteger();

  private final String name = "h" + NAMES.incrementAndGet();
  private final TestNode node = new TestNode();
  private final TestProbe<MachineProtocol.FromHost> machine =
      KIT.createTestProbe(MachineProtocol.FromHost.class);
  private final ActorRef<SessionHost.Command> host =
      KIT.spawn(
          SessionHost.create(name, ActorsSettings.from(KIT.system().settings().config())), name);

  /** Made before any host, which ends when nobody uses it for seconds. */
  private static final TestNode PINNED = TestNode.pinned();

  @BeforeAll
  static void join() {
    Cluster cluster = Cluster.get(KIT.system());
    cluster.manager().tell(Join.create(cluster.selfMember().address()));
    ClusterSharding.get(KIT.system())
        .init(
            Entity.of(
                MachineActor.ENTITY_KEY,
                context ->
                    Behaviors.receiveMessage(
                        message -> {
                          MACHINES.getRef().tell(message);
                          return Behaviors.same();
                        })));
  }

  @AfterAll
  static void shutdown() {
    PINNED.closeSockets();
    KIT.shutdownTestKit();
  }

  @AfterEach
  void stop() {
    KIT.stop(host, LIMIT);
    node.closeSockets();
  }

  @Test
  void linksAsTheProviderHasAgreedWithTheNode() {
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening = KIT.createTestProbe();
    host.tell(new SessionHost.OpenSession(opening.getRef()));

    host.tell(way(PINNED, PINNED.tls().orElseThrow().settings().root().render()));

    StatusReply<MachineProtocol.SessionOpened> reply = opening.receiveMessage(LIMIT);
    assertThat(reply.isSuccess()).as(reply::toString).isTrue();
  }

  @Test
  void showsNoSecretOfTheWay() {

    assertThat(way(PINNED, PINNED.tls().orElseThrow().settings().root().render()).toString())
        .doesNotContain("PRIVATE", PINNED.token().value());
  }

  @Test
  void saysWhichSettingOfTheMachineIsOfNoUseHere() {
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening = KIT.createTestProbe();
    host.tell(new SessionHost.OpenSession(opening.getRef()));

    host.tell(way(node, "remora.link.coalesce-batches = 1000"));

    assertThat(opening.receiveMessage(LIMIT).getError())
        .hasMessageContaining(name)
        .hasMessageContaining("remora.link.coalesce-batches must be between 1 and 256");
  }

  @Test
  void saysGoodbyeWhenTheMachineEnds() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();

    host.tell(new SessionHost.Ended(new MachineStateException("it was closed")));

    assertThat(session.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS)).hasMessage("it was closed");
    await().atMost(LIMIT).until(() -> node.heard.contains("goodbye"));
    KIT.createTestProbe().expectTerminated(host, LIMIT);
  }

  @Test
  void saysGoodbyeWithItsLastSession() {
    host.tell(way(node, ""));
    Session session = openSession();

    assertThat(close(session).receiveMessage(LIMIT).isSuccess()).isTrue();

    KIT.createTestProbe().expectTerminated(host, LIMIT);
    await().atMost(LIMIT).until(() -> node.heard.contains("goodbye"));
  }

  @Test
  void closesASessionAfterWhatItHasSentWhileItIsSaved() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    node.saves = false;
    host.tell(new SessionHost.Save("pause-1", false, machine.getRef()));
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));
    session.submit(1);
    TestProbe<StatusReply<Done>> closing = close(session);
    closing.expectNoMessage(Duration.ofMillis(200));

    host.tell(new SessionHost.GoOn());

    assertThat(closing.receiveMessage(LIMIT).isSuccess()).isTrue();
    assertThat(node.executed).isEqualTo(1);
  }

  @Test
  void savesNothingOfASessionThatIsBeingClosed() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    Session other = openSession();
    CompletableFuture<Void> goesOn = new CompletableFuture<>();
    node.execution =
        (sequence, batch) -> {
          goesOn.join();
          return ReportBytes.empty();
        };
    // More than the sockets take: the frames behind it wait.
    session.submit(1, 12 << 20);
    TestProbe<StatusReply<Done>> closing = close(session);

    host.tell(new SessionHost.Save("pause-1", false, machine.getRef()));
    // The host has come to what was told before.
    TestProbe<StatusReply<StorageInfo>> later = KIT.createTestProbe();
    host.tell(new SessionHost.GetStorage(session.id, 1, later.getRef()));
    later.receiveMessage(LIMIT);
    goesOn.complete(null);

    assertThat(closing.receiveMessage(LIMIT).isSuccess()).isTrue();
    assertThat(machine.receiveMessage(LIMIT))
        .isEqualTo(new MachineProtocol.HostSaved(host, "pause-1", ""));
    assertThat(node.heard).contains("save " + other.id).doesNotContain("save " + session.id);
  }

  @Test
  void hasDeletedWhatIsSavedTooLate() {
    host.tell(way(node, ""));
    Session session = openSession();
    node.saves = false;
    host.tell(new SessionHost.Save("pause-1", false, machine.getRef()));
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));
    host.tell(new SessionHost.GoOn());

    node.answerSave("");

    await().atMost(LIMIT).until(() -> node.heard.contains("forget"));
  }

  @Test
  void tellsThePausedMachineOfItsUseBeforeTheProgramAsksForAnotherPause() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    pause();
    host.tell(new SessionHost.Offline());
    awaitHost();
    CountDownLatch goesOn = keepHostBusy();

    session.submit(1);

    List<MachineProtocol.Command> told = toldBeforeAPause();
    goesOn.countDown();
    assertThat(told).contains(new MachineProtocol.HostUsed(host));
  }

  @Test
  void tellsOfItsUseBeforeAnotherPauseEvenIfItDoesNotKnowYetThatTheMachineIsPaused()
      throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    pause();
    CountDownLatch goesOn = keepHostBusy();
    host.tell(new SessionHost.Offline());

    session.submit(1);

    List<MachineProtocol.Command> told = toldBeforeAPause();
    goesOn.countDown();
    assertThat(told).contains(new MachineProtocol.HostUsed(host));
  }

  private void pause() {
    host.tell(new SessionHost.Save("pause-1", false, machine.getRef()));
    assertThat(machine.receiveMessage(LIMIT))
        .isEqualTo(new MachineProtocol.HostSaved(host, "pause-1", ""));
  }

  /** Waits until the host has handled what was told before. */
  private void awaitHost() {
    TestProbe<StatusReply<StorageInfo>> answer = KIT.createTestProbe();
    host.tell(new SessionHost.GetStorage(0, 1, answer.getRef()));
    answer.receiveMessage(LIMIT);
  }

  /** Makes the host handle nothing more until the latch is open. */
  private CountDownLatch keepHostBusy() throws InterruptedException {
    CountDownLatch busy = new CountDownLatch(1);
    CountDownLatch open = new CountDownLatch(1);
    // Runs on the thread of whoever tells it something.
    ActorRef<StatusReply<StorageInfo>> obstacle =
        KIT.spawn(
            Behaviors.receiveMessage(
                answer -> {
                  busy.countDown();
                  open.await();
                  return Behaviors.stopped();
                }),
            DispatcherSelector.fromConfig(CallingThreadDispatcher.Id()));
    host.tell(new SessionHost.GetStorage(0, 1, obstacle));
    assertThat(busy.await(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    return open;
  }

  /** What was told to the machine before this thread asks it to pause. */
  private List<MachineProtocol.Command> toldBeforeAPause() {
    TestProbe<StatusReply<MachineInfo>> pausing = KIT.createTestProbe();
    ClusterSharding.get(KIT.system())
        .entityRefFor(MachineActor.ENTITY_KEY, name)
        .tell(new MachineProtocol.Pause(pausing.getRef()));
    List<MachineProtocol.Command> told = new ArrayList<>();
    while (true) {
      MachineProtocol.Command command = MACHINES.receiveMessage(LIMIT);
      if (command instanceof MachineProtocol.Pause) {
        return told;
      }
      told.add(command);
    }
  }

  private SessionHost.Way way(TestNode to, String settings) {
    MachineInfo info =
        new MachineInfo(name, MachineState.READY, "test", "", List.of(), "2.10.0", 1, 0, "");
    String address = "127.0.0.1:" + to.address().getPort();
    return new SessionHost.Way(address, to.token().value(), settings, info, machine.getRef());
  }

  private Session openSession() {
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> probe = KIT.createTestProbe();
    host.tell(new SessionHost.OpenSession(probe.getRef()));
    StatusReply<MachineProtocol.SessionOpened> reply = probe.receiveMessage(LIMIT);
    assertThat(reply.isSuccess()).as(reply::toString).isTrue();
    return new Session(reply.getValue().session());
  }

  private TestProbe<StatusReply<Done>> close(Session session) {
    TestProbe<StatusReply<Done>> probe = KIT.createTestProbe();
    host.tell(new SessionHost.CloseSession(session.id, probe.getRef()));
    return probe;
  }

  private static final class Session implements SessionListener {

    final long id;
    final BatchSink sink;
    final CompletableFuture<RemoraException> lost = new CompletableFuture<>();

    Session(long id) {
      this.id = id;
      this.sink = LocalSessions.get(KIT.system()).attach(id, this);
    }

    void submit(long sequence) {
      submit(sequence, 10);
    }

    void submit(long sequence, int bytes) {
      sink.submit(new Batch(sequence, pattern(bytes, 1), List.of(), new long[0], () -> {}));
    }

    @Override
    public void onExecuted(long sequence, ByteBuffer report) {}

    @Override
    public ByteBuffer valueDestination(long request, long offset, int length) {
      return null;
    }

    @Override
    public void onValueReceived(long request, long offset, int length) {}

    @Override
    public void onLost(RemoraException cause) {
      lost.complete(cause);
    }
  }
}
