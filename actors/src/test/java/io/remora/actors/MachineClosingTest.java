// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.Done;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.pattern.StatusReply;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ProviderException;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The requested end of a machine. */
@Tag("fast")
@Timeout(60)
class MachineClosingTest extends MachineFixture {

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
    configure("remora.machine.close-timeout = 500 ms");
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

    kit.stop(machine, LIMIT);

    assertThat(session.lost.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
        .isInstanceOf(MachineStateException.class);
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
  }
}
