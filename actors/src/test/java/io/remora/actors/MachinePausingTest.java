// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.pattern;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.Done;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.pattern.StatusReply;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeUsage;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ResourceExhaustedException;
import io.remora.runtime.StorageBirth;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Saving the sessions, ending the node, and restoring the sessions on the next node. */
@Tag("fast")
@Timeout(60)
class MachinePausingTest extends MachineFixture {

  @Test
  void savesEndsTheNodeAndGoesOnInTheNext() throws Exception {
    open(node);
    Session session = openSession();
    realize(session, new StorageBirth(8, 800, 0));

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
    assertThat(stats()).as("when it is opened again").doesNotContainKey("cost.dollars");
    success(ask(MachineProtocol.Close::new, Done.class));
  }

  private Map<String, Double> stats() {
    TestProbe<MachineStats> probe = kit.createTestProbe();
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
        .hasMessageContaining("was not paused and continues: no space left on device");
    assertThat(session.executed()).isEqualTo(1);
  }

  @Test
  void goesOnWhenASaveTakesTooLongAndHasItDeletedWhenItComes() throws Exception {
    configure("remora.machine.pause-timeout = 1 s");
    open(node);
    Session session = openSession();
    node.saves = false;

    assertThat(failure(ask(MachineProtocol.Pause::new, MachineInfo.class)))
        .hasMessageContaining("within 1000 ms (remora.machine.pause-timeout)");
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));
    node.heard.clear();
    node.answerSave("");
    await().atMost(LIMIT).until(() -> node.heard.contains("forget"));
  }

  @Test
  void goesOnWhenItsNodeDoesNotEnd() throws Exception {
    configure("remora.machine.close-timeout = 2 s");
    open(node);
    Session session = openSession();
    node.terminates = false;

    assertThat(failure(ask(MachineProtocol.Pause::new, MachineInfo.class)))
        .hasMessageContaining("did not end within 2000 ms");
    session.submit(1, 10, List.of());
    assertThat(session.executed()).isEqualTo(1);
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
    configure("remora.machine.exit-report-wait = 30 s");
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
    node.saves = false;
    plan(node);
    MachineSpec spec = new MachineSpec(name, "test", null, 1, Duration.ofMillis(400), LIMIT);
    success(ask(to -> new MachineProtocol.Open(spec, to), MachineInfo.class));
    Session session = openSession();
    AtomicInteger endedBefore = new AtomicInteger();
    session.atExecution = () -> endedBefore.set(node.terminations.get());
    await().atMost(LIMIT).until(() -> info().state() == MachineState.PAUSING);
    session.submit(1, 10, List.of());
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));
    node.saves = true;
    node.answerSave("");
    assertThat(session.executed()).as("not paused after all").isEqualTo(1);
    assertThat(endedBefore).hasValue(0);

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

  /** Whether the machine has handled everything that the node has sent. */
  private boolean heardBySession(Session session) {
    node.sendValue(session.id, 1, pattern(10, 1));
    return session.valueBytes.get() > 0;
  }
}
