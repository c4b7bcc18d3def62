// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.pattern;
import static org.assertj.core.api.Assertions.assertThat;

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
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;

/**
 * A host of this JVM's sessions on a machine of another member. The machine is a probe; the node
 * speaks the link's protocol.
 */
abstract class SessionHostFixture {

  static ActorTestKit kit;

  /** Receives the messages to all machines. */
  static TestProbe<MachineProtocol.Command> machines;

  private static final AtomicInteger NAMES = new AtomicInteger();

  final String name = "h" + NAMES.incrementAndGet();
  final TestNode node = new TestNode();
  final TestProbe<MachineProtocol.FromHost> machine =
      kit.createTestProbe(MachineProtocol.FromHost.class);
  final ActorRef<SessionHost.Command> host =
      kit.spawn(
          SessionHost.create(name, ActorsSettings.from(kit.system().settings().config())), name);

  @BeforeAll
  static void join() {
    kit = ActorTestKit.create("hosts", ClusterConfig.of(ConfigFactory.load(), List.of()));
    machines = kit.createTestProbe(MachineProtocol.Command.class);
    Cluster cluster = Cluster.get(kit.system());
    cluster.manager().tell(Join.create(cluster.selfMember().address()));
    ClusterSharding.get(kit.system())
        .init(
            Entity.of(
                MachineActor.ENTITY_KEY,
                context ->
                    Behaviors.receiveMessage(
                        message -> {
                          machines.getRef().tell(message);
                          return Behaviors.same();
                        })));
  }

  @AfterAll
  static void shutdown() {
    kit.shutdownTestKit();
  }

  @AfterEach
  void stop() {
    kit.stop(host, LIMIT);
    node.closeSockets();
  }

  SessionHost.Way way(TestNode to, String settings) {
    MachineInfo info =
        new MachineInfo(name, MachineState.READY, "test", "", List.of(), "2.10.0", 1, 0, "");
    String address = "127.0.0.1:" + to.address().getPort();
    return new SessionHost.Way(
        address, to.token().value(), settings, info, false, machine.getRef());
  }

  Session openSession() {
    StatusReply<MachineProtocol.SessionOpened> reply = askForSession().receiveMessage(LIMIT);
    assertThat(reply.isSuccess()).as(reply::toString).isTrue();
    return new Session(reply.getValue().session());
  }

  TestProbe<StatusReply<MachineProtocol.SessionOpened>> askForSession() {
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening = kit.createTestProbe();
    host.tell(new SessionHost.OpenSession(opening.getRef()));
    return opening;
  }

  TestProbe<StatusReply<Done>> close(Session session) {
    TestProbe<StatusReply<Done>> probe = kit.createTestProbe();
    host.tell(new SessionHost.CloseSession(session.id, probe.getRef()));
    return probe;
  }

  /** Makes the host save its sessions. */
  void save() {
    host.tell(new SessionHost.Save("pause-1", false, machine.getRef()));
    assertThat(machine.receiveMessage(LIMIT))
        .isEqualTo(new MachineProtocol.HostSaved(host, "pause-1", ""));
  }

  /** Makes the host save its sessions, and tells it that the machine is paused. */
  void pause() {
    save();
    host.tell(new SessionHost.Offline());
    awaitHost();
  }

  /** Waits until the host has handled all earlier messages. */
  void awaitHost() {
    TestProbe<StatusReply<StorageInfo>> answer = kit.createTestProbe();
    host.tell(new SessionHost.GetStorage(0, 1, answer.getRef()));
    answer.receiveMessage(LIMIT);
  }

  /** Keeps the host from handling messages until the latch is open. */
  final CountDownLatch keepHostBusy() throws InterruptedException {
    CountDownLatch busy = new CountDownLatch(1);
    CountDownLatch open = new CountDownLatch(1);
    // Runs on the sender's thread.
    ActorRef<StatusReply<StorageInfo>> obstacle =
        kit.spawn(
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

  static final class Session implements SessionListener {

    final long id;
    final BatchSink sink;
    final BlockingQueue<Long> executions = new LinkedBlockingQueue<>();
    final CompletableFuture<RemoraException> lost = new CompletableFuture<>();

    Session(long id) {
      this.id = id;
      this.sink = LocalSessions.get(kit.system()).attach(id, this);
    }

    void submit(long sequence) {
      submit(sequence, 10);
    }

    void submit(long sequence, int bytes) {
      sink.submit(new Batch(sequence, pattern(bytes, 1), List.of(), new long[0], () -> {}));
    }

    long executed() throws InterruptedException {
      Long sequence = executions.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
      assertThat(sequence).isNotNull();
      return sequence;
    }

    Throwable lostFor() throws Exception {
      return lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    }

    @Override
    public void onExecuted(long sequence, ByteBuffer report) {
      executions.add(sequence);
    }

    @Override
    public void onLost(RemoraException cause) {
      lost.complete(cause);
    }
  }
}
