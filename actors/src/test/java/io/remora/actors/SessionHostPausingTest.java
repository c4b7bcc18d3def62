// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.Done;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.pattern.StatusReply;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.NodeLostException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The sessions of a JVM on a machine of another member, when the machine pauses and resumes. */
@Tag("fast")
@Timeout(60)
class SessionHostPausingTest extends SessionHostFixture {

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
    // More than the sockets can buffer, so the frames behind it wait.
    session.submit(1, 12 << 20);
    TestProbe<StatusReply<Done>> closing = close(session);

    host.tell(new SessionHost.Save("pause-1", false, machine.getRef()));
    awaitHost();
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
    save();
    CountDownLatch goesOn = keepHostBusy();
    host.tell(new SessionHost.Offline());

    session.submit(1);

    List<MachineProtocol.Command> told = toldBeforeAPause();
    goesOn.countDown();
    assertThat(told).contains(new MachineProtocol.HostUsed(host));
  }

  @Test
  void restoresOnTheNextNodeAndContinuesWhenTheMachineIsReady() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    pause();
    session.submit(1);
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening = askForSession();
    TestNode next = new TestNode();

    host.tell(way(next, ""));
    assertThat(machine.receiveMessage(LIMIT))
        .isEqualTo(new MachineProtocol.HostRestored(host, null));
    assertThat(next.heard).contains("restore " + session.id);
    assertThat(session.executions).isEmpty();
    opening.expectNoMessage(Duration.ofMillis(100));
    host.tell(new SessionHost.GoOn());

    assertThat(session.executed()).isEqualTo(1);
    assertThat(opening.receiveMessage(LIMIT).isSuccess()).isTrue();
    next.closeSockets();
  }

  @Test
  void keepsItsSessionsWhenTheNodeThatRestoresThemIsLost() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    pause();
    TestNode second = new TestNode();
    second.opens = false;
    host.tell(way(second, ""));
    await().atMost(LIMIT).until(() -> second.heard.contains("restore " + session.id));

    second.sayGoodbye("it was preempted");

    TestNode third = new TestNode();
    await()
        .atMost(LIMIT)
        .until(
            () -> {
              host.tell(way(third, ""));
              return third.heard.contains("restore " + session.id);
            });
    assertThat(machine.receiveMessage(LIMIT))
        .isEqualTo(new MachineProtocol.HostRestored(host, null));
    host.tell(new SessionHost.GoOn());
    session.submit(1);
    assertThat(session.executed()).isEqualTo(1);
    second.closeSockets();
    third.closeSockets();
  }

  @Test
  void keepsWhatIsSavedWhenTheNodeEndsBeforeTheMachineReportsThePause() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    save();
    node.sayGoodbye("the machine pauses");
    awaitUnlinked();

    host.tell(new SessionHost.Offline());
    session.submit(1);

    TestNode next = new TestNode();
    continueOn(next);
    assertThat(session.executed()).isEqualTo(1);
    next.closeSockets();
  }

  @Test
  void losesWhatIsSavedWhenItsLinkEndsAndTheMachineDoesNotPause() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    save();
    node.sayGoodbye("a fault");
    awaitUnlinked();

    host.tell(new SessionHost.GoOn());

    assertThat(session.lostFor())
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("a fault");
    kit.createTestProbe().expectTerminated(host, LIMIT);
  }

  @Test
  void reportsAgainThatItsSessionsAreSavedUntilTheMachineAnswers() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    save();

    awaitReport(new MachineProtocol.HostSaved(host, "pause-1", ""));
    node.sayGoodbye("the machine pauses");
    awaitUnlinked();
    awaitReport(new MachineProtocol.HostSaved(host, "pause-1", ""));
    host.tell(new SessionHost.Offline());

    TestNode next = new TestNode();
    host.tell(way(next, ""));
    machine.expectMessageClass(MachineProtocol.HostRestored.class, LIMIT);
    awaitReport(new MachineProtocol.HostRestored(host, null));
    host.tell(new SessionHost.GoOn());
    session.submit(1);
    assertThat(session.executed()).isEqualTo(1);
    next.closeSockets();
  }

  @Test
  void continuesAtOnceWhenASessionCannotBeSaved() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();
    node.saves = false;
    host.tell(new SessionHost.Save("pause-1", false, machine.getRef()));
    await().atMost(LIMIT).until(() -> node.heard.contains("save " + session.id));
    session.submit(1);

    node.answerSave("no space left on device");

    assertThat(machine.receiveMessage(LIMIT))
        .isEqualTo(new MachineProtocol.HostSaved(host, "pause-1", "no space left on device"));
    assertThat(session.executed()).isEqualTo(1);
  }

  @Test
  void doesNotSaveForAnIdlePauseWhatIsInUse() {
    host.tell(way(node, ""));
    Session session = openSession();
    node.execution = (sequence, batch) -> null;
    session.submit(1);

    host.tell(new SessionHost.Save("pause-1", true, machine.getRef()));

    assertThat(machine.receiveMessage(LIMIT))
        .isEqualTo(new MachineProtocol.HostSaved(host, "pause-1", "it is used again"));
    assertThat(askForSession().receiveMessage(LIMIT).isSuccess()).isTrue();
    assertThat(node.heard).doesNotContain("save " + session.id);
  }

  @Test
  void opensNoSessionOnANodeThatIsAboutToEnd() {
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening = askForSession();
    node.answersHello = false;
    host.tell(way(node, ""));
    await().atMost(LIMIT).until(() -> node.heard.contains("hello of " + name));

    save();
    host.tell(new SessionHost.Offline());

    TestNode next = new TestNode();
    continueOn(next);
    assertThat(opening.receiveMessage(LIMIT).isSuccess()).isTrue();
    next.closeSockets();
  }

  /** Makes the host restore its sessions on a node and continue. */
  private void continueOn(TestNode next) {
    host.tell(way(next, ""));
    machine.expectMessageClass(MachineProtocol.HostRestored.class, LIMIT);
    host.tell(new SessionHost.GoOn());
  }

  /** Waits until the host tells the machine this of its own accord. */
  private void awaitReport(MachineProtocol.FromHost report) {
    awaitHost();
    while (!machines.receiveMessage(LIMIT).equals(report)) {}
  }

  /** Waits until the host tells the machine that it has no link. */
  private void awaitUnlinked() {
    awaitHost();
    while (true) {
      if (machines.receiveMessage(LIMIT) instanceof MachineProtocol.HostPresent present
          && present.host().equals(host)
          && !present.linked()) {
        return;
      }
    }
  }

  /** The messages that the machine received before this thread asks it to pause. */
  private List<MachineProtocol.Command> toldBeforeAPause() {
    TestProbe<StatusReply<MachineInfo>> pausing = kit.createTestProbe();
    ClusterSharding.get(kit.system())
        .entityRefFor(MachineActor.ENTITY_KEY, name)
        .tell(new MachineProtocol.Pause(pausing.getRef()));
    List<MachineProtocol.Command> told = new ArrayList<>();
    while (true) {
      MachineProtocol.Command command = machines.receiveMessage(LIMIT);
      if (command instanceof MachineProtocol.Pause) {
        return told;
      }
      told.add(command);
    }
  }
}
