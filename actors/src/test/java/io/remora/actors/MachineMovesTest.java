// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.Done;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.actor.typed.ActorRef;
import akka.cluster.sharding.typed.javadsl.EntityRef;
import akka.pattern.StatusReply;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProvisionedNode;
import java.net.ServerSocket;
import java.time.Duration;
import java.util.Queue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Function;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Machines in every state whose member leaves the cluster. */
@Tag("fast")
@Timeout(120)
class MachineMovesTest {

  private static final AtomicInteger NAMES = new AtomicInteger();
  private static int seed;

  /** The member that stays. */
  private static RemoraCluster second;

  private final String name = "moving-" + NAMES.incrementAndGet();
  private final TestNode node = new TestNode();

  /** The member that leaves. */
  private RemoraCluster first;

  private EntityRef<MachineProtocol.Command> machine;

  @BeforeAll
  static void start() throws Exception {
    try (ServerSocket socket = new ServerSocket(0)) {
      seed = socket.getLocalPort();
    }
    second = RemoraCluster.acquire(config("127.0.0.1:" + seed));
  }

  @BeforeEach
  void join() {
    first = RemoraCluster.acquire(config("127.0.0.1:0"));
    machine = second.machine(name);
    await().atMost(LIMIT).until(() -> MachineRecords.get(second.system()).areShared());
  }

  @AfterEach
  void stop() {
    first.release();
    node.closeSockets();
  }

  @AfterAll
  static void end() {
    second.release();
  }

  /** A member that waits for its machines for longer than the limit of these tests. */
  private static Config config(String listen) {
    return ConfigFactory.parseString(
            """
            remora.cluster {
              seed-nodes = ["127.0.0.1:%d"]
              listen = "%s"
              leave-timeout = 60 s
            }
            remora.machine.resume-retry = 60 s
            """
                .formatted(seed, listen))
        .withFallback(ConfigFactory.load())
        .resolve();
  }

  @Test
  void goesOnResumingElsewhere() {
    TestProbe<SessionHost.Command> host = openWithHost();
    ActorRef<MachineProtocol.FromHost> unused = pause(host);
    TestNode next = new TestNode();
    CompletableFuture<ProvisionedNode> never = new CompletableFuture<>();
    TestProvider.plan(
        name,
        (spec, context) ->
            context.system() == first.system() ? never : CompletableFuture.completedFuture(next));
    TestProbe<StatusReply<MachineInfo>> resuming = ask(MachineProtocol.Resume::new);
    await().atMost(LIMIT).until(() -> state() == MachineState.PROVISIONING);

    leave();

    assertThat(resuming.receiveMessage(LIMIT).isSuccess()).isTrue();
    assertThat(state()).isEqualTo(MachineState.READY);
    next.closeSockets();
  }

  @Test
  void keepsWhatAHostHasSavedUntilItHasJoinedTheNextActor() {
    TestProbe<SessionHost.Command> host = openWithHost();
    SessionHost.Save saved = save(host);
    host.expectMessageClass(SessionHost.Offline.class);
    leave();
    TestNode next = new TestNode();
    plan(next);

    assertThat(ask(MachineProtocol.Resume::new).receiveMessage(LIMIT).isSuccess()).isTrue();
    await().atMost(LIMIT).until(() -> next.heard.contains("forget"));
    machine.tell(new MachineProtocol.HostPresent(host.getRef(), false, 0));
    SessionHost.Way way = host.expectMessageClass(SessionHost.Way.class);
    assertThat(next.forgotten).doesNotContain(saved.pause());
    way.replyTo().tell(new MachineProtocol.HostRestored(host.getRef(), null));
    host.expectMessageClass(SessionHost.GoOn.class);
    machine.tell(new MachineProtocol.HostPresent(host.getRef(), true, 0));

    save(host);
    host.expectMessageClass(SessionHost.Offline.class);
    TestNode last = new TestNode();
    plan(last);
    machine.tell(new MachineProtocol.HostPresent(host.getRef(), false, 0));
    TestProbe<StatusReply<MachineInfo>> resuming = ask(MachineProtocol.Resume::new);
    host.expectMessageClass(SessionHost.Way.class)
        .replyTo()
        .tell(new MachineProtocol.HostRestored(host.getRef(), null));
    assertThat(resuming.receiveMessage(LIMIT).isSuccess()).isTrue();
    await().atMost(LIMIT).until(() -> last.forgotten.contains(saved.pause()));
    next.closeSockets();
    last.closeSockets();
  }

  @Test
  void handsAPausedOneOverOnceAndStartsNothingHere() {
    TestProbe<SessionHost.Command> host = openWithHost();
    ActorRef<MachineProtocol.FromHost> actor = pause(host);
    Queue<TestNode> started = new ConcurrentLinkedQueue<>();
    TestProvider.plan(
        name,
        (spec, context) -> {
          if (context.system() == second.system()) {
            return new CompletableFuture<>();
          }
          TestNode next = new TestNode();
          started.add(next);
          return CompletableFuture.completedFuture(next);
        });
    CompletableFuture<Void> left = CompletableFuture.runAsync(this::leave);

    // At every moment while the member leaves.
    while (!left.isDone()) {
      actor.tell(new MachineProtocol.HostUsed(host.getRef()));
      LockSupport.parkNanos(200_000);
    }

    left.join();
    // A host tells its machine of its use until the machine has heard of it.
    machine.tell(new MachineProtocol.HostUsed(host.getRef()));
    await().atMost(LIMIT).until(() -> started.stream().allMatch(n -> n.terminations.get() == 1));
    assertThat(state()).isEqualTo(MachineState.PROVISIONING);
  }

  @Test
  void answersWhoeverClosesOneWhileItsMemberLeaves() {
    openWithHost();
    node.terminates = false;
    TestProbe<StatusReply<Done>> closing = ask(MachineProtocol.Close::new);
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
    CompletableFuture<Void> left = CompletableFuture.runAsync(this::leave);
    await().atMost(LIMIT).until(this::isAskedToLeave);

    node.terminated.complete(Done.getInstance());

    assertThat(closing.receiveMessage(LIMIT).isSuccess()).isTrue();
    left.join();
    assertThat(state()).isEqualTo(MachineState.STOPPED);
  }

  @Test
  void leavesWithoutOneWhoseNodeIsLostWhileItIsSaved() {
    TestProbe<SessionHost.Command> host = openWithHost();
    CompletableFuture<Void> left = CompletableFuture.runAsync(this::leave);
    host.expectMessageClass(SessionHost.Save.class);

    node.die(137, "Killed");

    left.join();
    host.expectMessageClass(SessionHost.Ended.class);
    assertThat(state()).isEqualTo(MachineState.STOPPED);
  }

  @Test
  void handsOneOverThatPausesWhenItHasPaused() {
    node.handle = "node";
    TestProbe<SessionHost.Command> host = openWithHost();
    TestProbe<StatusReply<MachineInfo>> pausing = ask(MachineProtocol.Pause::new);
    SessionHost.Save save = host.expectMessageClass(SessionHost.Save.class);
    CompletableFuture<Void> left = CompletableFuture.runAsync(this::leave);
    await().atMost(LIMIT).until(this::isAskedToLeave);

    save.replyTo().tell(new MachineProtocol.HostSaved(host.getRef(), save.pause(), ""));

    assertThat(pausing.receiveMessage(LIMIT).isSuccess()).isTrue();
    left.join();
    assertThat(state()).isEqualTo(MachineState.PAUSED);
  }

  @Test
  void leavesTheNodeOfOneThatIsHandedOverAlone() {
    node.handle = "node";
    TestProbe<SessionHost.Command> host = openWithHost();
    CompletableFuture<Void> left = CompletableFuture.runAsync(this::leave);

    // As a host does, at every moment while the member leaves.
    while (!left.isDone()) {
      machine.tell(new MachineProtocol.HostPresent(host.getRef(), true, 0));
      LockSupport.parkNanos(10_000_000);
    }

    left.join();
    await().atMost(LIMIT).until(() -> state() == MachineState.READY);
    assertThat(node.terminations).hasValue(0);
    assertThat(node.connections).as("the second member's link is another").hasValue(2);
  }

  @Test
  void pausesOneWhoseLinkIsBrokenWhenItIsThereAgain() {
    TestProbe<SessionHost.Command> host = openWithHost();
    node.answersHello = false;
    node.connection.close();
    await().atMost(LIMIT).until(() -> state() == MachineState.RECONNECTING);
    CompletableFuture<Void> left = CompletableFuture.runAsync(this::leave);
    await().atMost(LIMIT).until(this::isAskedToLeave);
    assertThat(node.terminations).hasValue(0);

    node.answersHello = true;
    node.connection.close();

    SessionHost.Save save = host.expectMessageClass(SessionHost.Save.class);
    save.replyTo().tell(new MachineProtocol.HostSaved(host.getRef(), save.pause(), ""));
    left.join();
    assertThat(state()).isEqualTo(MachineState.PAUSED);
    assertThat(node.terminations).hasValue(1);
  }

  @Test
  void endsOneThatNobodyUsesElsewhere() {
    plan(node);
    ActorRef<?> owner = LocalSessions.get(first.system()).program();
    TestProbe<StatusReply<MachineInfo>> opening = TestProbe.create(first.system());
    first
        .machine(name)
        .tell(
            new MachineProtocol.Open(
                new MachineSpec(name, "test", null, 1, null, LIMIT), owner, opening.getRef()));
    assertThat(opening.receiveMessage(LIMIT).isSuccess()).isTrue();

    leave();

    assertThat(node.terminations).hasValue(1);
    assertThat(state()).isEqualTo(MachineState.STOPPED);
  }

  @Test
  void findsWhatItsLastOtherMemberHasLeft() {
    TestProbe<SessionHost.Command> host = openWithHost();
    ActorRef<MachineProtocol.FromHost> unused = pause(host);

    leave();
    await().atMost(LIMIT).until(() -> !MachineRecords.get(second.system()).areShared());

    assertThat(state()).isEqualTo(MachineState.PAUSED);
  }

  @Test
  void isWrittenDownForMembersThatComeLater() {
    leave();
    await().atMost(LIMIT).until(() -> !MachineRecords.get(second.system()).areShared());
    plan(node);
    MachineSpec spec = new MachineSpec(name, "test", null, 1, null, LIMIT);
    TestProbe<StatusReply<MachineInfo>> opening =
        ask(replyTo -> new MachineProtocol.Open(spec, replyTo));
    assertThat(opening.receiveMessage(LIMIT).isSuccess()).isTrue();

    join();

    await().atMost(LIMIT).until(() -> isRecordedAt(first));
    TestProbe<StatusReply<Done>> closing = ask(MachineProtocol.Close::new);
    assertThat(closing.receiveMessage(LIMIT).isSuccess()).isTrue();
    await().atMost(LIMIT).until(() -> !isRecordedAt(first));
  }

  private boolean isRecordedAt(RemoraCluster member) {
    return MachineRecords.get(member.system()).read(name).toCompletableFuture().join().isPresent();
  }

  /** Opens the machine without an owner, with a host on the second member. */
  private TestProbe<SessionHost.Command> openWithHost() {
    plan(node);
    MachineSpec spec = new MachineSpec(name, "test", null, 1, null, LIMIT);
    TestProbe<StatusReply<MachineInfo>> opening = TestProbe.create(first.system());
    first.machine(name).tell(new MachineProtocol.Open(spec, opening.getRef()));
    assertThat(opening.receiveMessage(LIMIT).isSuccess()).isTrue();
    TestProbe<SessionHost.Command> host = TestProbe.create(second.system());
    machine.tell(new MachineProtocol.HostPresent(host.getRef(), true, 0));
    assertThat(state()).isEqualTo(MachineState.READY);
    return host;
  }

  private ActorRef<MachineProtocol.FromHost> pause(TestProbe<SessionHost.Command> host) {
    return save(host).replyTo();
  }

  /** Pauses the machine, and returns the command that its host received. */
  private SessionHost.Save save(TestProbe<SessionHost.Command> host) {
    TestProbe<StatusReply<MachineInfo>> pausing = ask(MachineProtocol.Pause::new);
    SessionHost.Save save = host.expectMessageClass(SessionHost.Save.class);
    save.replyTo().tell(new MachineProtocol.HostSaved(host.getRef(), save.pause(), ""));
    assertThat(pausing.receiveMessage(LIMIT).isSuccess()).isTrue();
    return save;
  }

  private void plan(TestNode planned) {
    TestProvider.plan(name, (spec, context) -> CompletableFuture.completedFuture(planned));
  }

  private void leave() {
    first.release();
    assertThat(first.system().whenTerminated().isCompleted())
        .as("the member has left in order")
        .isTrue();
  }

  private MachineState state() {
    return machine.ask(MachineProtocol.GetState::new, LIMIT).toCompletableFuture().join().state();
  }

  /** From then on the machine answers nobody until the member has left. */
  private boolean isAskedToLeave() {
    return machine
        .ask(MachineProtocol.GetState::new, Duration.ofMillis(500))
        .toCompletableFuture()
        .handle((info, failure) -> failure != null)
        .join();
  }

  private <T> TestProbe<StatusReply<T>> ask(
      Function<ActorRef<StatusReply<T>>, MachineProtocol.Command> command) {
    TestProbe<StatusReply<T>> probe = TestProbe.create(second.system());
    machine.tell(command.apply(probe.getRef()));
    return probe;
  }
}
