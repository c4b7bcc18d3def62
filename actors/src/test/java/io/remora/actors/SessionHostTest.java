// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import java.util.concurrent.CountDownLatch;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The sessions of a JVM on a machine of another member, from the first to the last. */
@Tag("fast")
@Timeout(60)
class SessionHostTest extends SessionHostFixture {

  /** Created before any host, because a host ends when it is unused for a second. */
  private static final TestNode PINNED = TestNode.pinned();

  @AfterAll
  static void closePinned() {
    PINNED.closeSockets();
  }

  @Test
  void linksAsTheProviderHasAgreedWithTheNode() {
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening = askForSession();

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
    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening = askForSession();

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

    assertThat(session.lostFor()).hasMessage("it was closed");
    await().atMost(LIMIT).until(() -> node.heard.contains("goodbye"));
    kit.createTestProbe().expectTerminated(host, LIMIT);
  }

  @Test
  void saysGoodbyeWithItsLastSession() {
    host.tell(way(node, ""));
    Session session = openSession();

    assertThat(close(session).receiveMessage(LIMIT).isSuccess()).isTrue();

    kit.createTestProbe().expectTerminated(host, LIMIT);
    await().atMost(LIMIT).until(() -> node.heard.contains("goodbye"));
  }

  @Test
  void handsARequestThatComesTooLateToTheNextHost() throws Exception {
    host.tell(way(node, ""));
    openSession();
    // The request is in the host's mailbox before the host ends.
    CountDownLatch goesOn = keepHostBusy();
    host.tell(new SessionHost.Ended(new MachineStateException("it was closed")));

    TestProbe<StatusReply<MachineProtocol.SessionOpened>> opening = askForSession();
    goesOn.countDown();

    ActorRef<SessionHost.Command> next = nextHost();
    TestNode other = new TestNode();
    next.tell(way(other, ""));
    StatusReply<MachineProtocol.SessionOpened> reply = opening.receiveMessage(LIMIT);
    assertThat(reply.isSuccess()).as(reply::toString).isTrue();
    LocalSessions.get(kit.system())
        .close(name, reply.getValue().session(), LIMIT)
        .toCompletableFuture()
        .join();
    kit.createTestProbe().expectTerminated(next, LIMIT);
    other.closeSockets();
  }

  /** The next host of this machine. */
  private ActorRef<SessionHost.Command> nextHost() {
    while (true) {
      if (machines.receiveMessage(LIMIT) instanceof MachineProtocol.HostPresent present
          && present.host().path().name().startsWith("remora-sessions-" + name + "-")) {
        return present.host();
      }
    }
  }

  @Test
  void losesSessionsThatTheMachineWasPausedWithout() throws Exception {
    host.tell(way(node, ""));
    Session session = openSession();

    host.tell(new SessionHost.Offline());

    assertThat(session.lostFor())
        .isInstanceOf(NodeLostException.class)
        .hasMessage("machine " + name + " was paused without its sessions in this process");
    kit.createTestProbe().expectTerminated(host, LIMIT);
  }
}
