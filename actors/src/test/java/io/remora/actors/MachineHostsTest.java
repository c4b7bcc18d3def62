// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.Done;
import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.pattern.StatusReply;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ResourceExhaustedException;
import java.time.Duration;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Machines with sessions of programs on other members; the hosts are probes. */
@Tag("fast")
@Timeout(60)
class MachineHostsTest extends MachineFixture {

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

  @Test
  void saysThatItIsNotOpenToHostsThatJoin() {
    assertThat(join(true).expectMessageClass(SessionHost.Ended.class).cause())
        .isInstanceOf(MachineStateException.class)
        .hasMessage("machine " + name + " is STOPPED: never opened");
    open(node);
    TestProbe<SessionHost.Command> host = join(true);

    success(ask(MachineProtocol.Close::new, Done.class));

    assertThat(host.expectMessageClass(SessionHost.Ended.class).cause())
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("was closed");
  }

  @Test
  void doesNotWaitForAHostThatIsGone() {
    open(node);
    TestProbe<SessionHost.Command> staying = join(true);
    TestProbe<SessionHost.Command> going = join(true);
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    going.expectMessageClass(SessionHost.Save.class);
    saved(staying, "");
    pausing.expectNoMessage(Duration.ofMillis(100));

    going.stop();

    assertThat(success(pausing).state()).isEqualTo(MachineState.PAUSED);
  }

  @Test
  void staysOpenWhenAHostCannotSave() {
    open(node);
    TestProbe<SessionHost.Command> host = join(true);
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);

    saved(host, "no space left on device");

    assertThat(failure(pausing)).hasMessageContaining("no space left on device");
    host.expectMessageClass(SessionHost.GoOn.class);
    assertThat(info().state()).isEqualTo(MachineState.READY);
    assertThat(node.terminations).hasValue(0);
  }

  @Test
  void hasTheNodeDeleteWhatAHostSavesTooLate() {
    open(node);
    TestProbe<SessionHost.Command> host = join(true);

    machine.tell(new MachineProtocol.HostSaved(host.getRef(), "a pause of yesterday", ""));

    await().atMost(LIMIT).until(() -> node.heard.contains("forget"));
  }

  @Test
  void isReadyAgainWhenItsHostsHaveRestored() {
    open(node);
    TestProbe<SessionHost.Command> host = join(true);
    ask(MachineProtocol.Pause::new, MachineInfo.class);
    saved(host, "");
    host.expectMessageClass(SessionHost.Offline.class);
    TestNode next = new TestNode();
    plan(next);

    machine.tell(new MachineProtocol.HostUsed(host.getRef()));
    machine.tell(new MachineProtocol.HostPresent(host.getRef(), false, 0));
    SessionHost.Way way = host.expectMessageClass(SessionHost.Way.class);
    assertThat(way.token()).isEqualTo(next.issued.remove());
    TestProbe<StatusReply<MachineInfo>> resuming =
        ask(MachineProtocol.Resume::new, MachineInfo.class);
    resuming.expectNoMessage(Duration.ofMillis(100));
    assertThat(info().state()).isEqualTo(MachineState.CONNECTING);
    way.replyTo().tell(new MachineProtocol.HostRestored(host.getRef(), null));

    assertThat(success(resuming).state()).isEqualTo(MachineState.READY);
    host.expectMessageClass(SessionHost.GoOn.class);
    next.closeSockets();
  }

  @Test
  void resumesForWorkThatHasComeWhileItsNodeWasEnded() {
    open(node);
    TestProbe<SessionHost.Command> host = join(true);
    node.terminates = false;
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    saved(host, "");
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
    TestNode next = new TestNode();
    plan(next);

    machine.tell(new MachineProtocol.HostUsed(host.getRef()));
    node.terminated.complete(Done.getInstance());

    assertThat(success(pausing).state()).isEqualTo(MachineState.PAUSED);
    await().atMost(LIMIT).until(() -> next.connections.get() == 1);
    next.closeSockets();
  }

  @Test
  void letsAHostContinueThatRestoresWhenTheMachineIsReady() {
    open(node);
    TestProbe<SessionHost.Command> host = join(false);
    SessionHost.Way way = host.expectMessageClass(SessionHost.Way.class);

    way.replyTo().tell(new MachineProtocol.HostRestored(host.getRef(), null));

    host.expectMessageClass(SessionHost.GoOn.class);
  }

  @Test
  void letsAHostContinueThatHasNotLearnedThatThePauseHasFailed() {
    open(node);
    TestProbe<SessionHost.Command> host = join(true);
    TestProbe<SessionHost.Command> other = join(true);
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    SessionHost.Save asked = host.expectMessageClass(SessionHost.Save.class);
    saved(other, "no space left on device");
    failure(pausing);
    host.expectMessageClass(SessionHost.GoOn.class);

    machine.tell(new MachineProtocol.HostSaved(host.getRef(), asked.pause(), ""));

    host.expectMessageClass(SessionHost.GoOn.class);
  }

  @Test
  void tellsAHostAgainThatItIsPausedAndGivesItTheWayWhenItResumes() {
    open(node);
    TestProbe<SessionHost.Command> host = join(true);
    TestProbe<StatusReply<MachineInfo>> pausing =
        ask(MachineProtocol.Pause::new, MachineInfo.class);
    SessionHost.Save asked = host.expectMessageClass(SessionHost.Save.class);
    MachineProtocol.HostSaved saved =
        new MachineProtocol.HostSaved(host.getRef(), asked.pause(), "");
    machine.tell(saved);
    success(pausing);
    host.expectMessageClass(SessionHost.Offline.class);

    machine.tell(saved);
    host.expectMessageClass(SessionHost.Offline.class);

    TestNode next = new TestNode();
    plan(next);
    TestProbe<StatusReply<MachineInfo>> resuming =
        ask(MachineProtocol.Resume::new, MachineInfo.class);
    await().atMost(LIMIT).until(() -> next.connections.get() == 1);
    machine.tell(saved);
    host.expectMessageClass(SessionHost.Offline.class);
    machine.tell(new MachineProtocol.HostPresent(host.getRef(), false, 0));
    host.expectMessageClass(SessionHost.Way.class)
        .replyTo()
        .tell(new MachineProtocol.HostRestored(host.getRef(), null));
    assertThat(success(resuming).state()).isEqualTo(MachineState.READY);
    next.closeSockets();
  }

  @Test
  void waitsAfterItCouldNotResumeForWorkAtAHost() {
    configure("remora.machine.resume-retry = 1 h");
    TestProbe<SessionHost.Command> host = openAndPause();
    AtomicInteger attempts = new AtomicInteger();
    TestProvider.plan(
        name,
        (spec, context) -> {
          attempts.incrementAndGet();
          return CompletableFuture.failedFuture(new ResourceExhaustedException("no H100 left"));
        });
    machine.tell(new MachineProtocol.HostUsed(host.getRef()));
    host.expectMessageClass(SessionHost.Offline.class);

    machine.tell(new MachineProtocol.HostUsed(host.getRef()));
    assertThat(info().state()).isEqualTo(MachineState.PAUSED);
    assertThat(info().reason()).contains("no H100 left");
    assertThat(attempts).hasValue(1);
  }

  @Test
  void triesAgainToResumeForWorkAtAHostWhenItHasWaited() {
    TestProbe<SessionHost.Command> host = openAndPause();
    BlockingQueue<Long> attempts = new LinkedBlockingQueue<>();
    AtomicBoolean failed = new AtomicBoolean();
    TestProvider.plan(
        name,
        (spec, context) -> {
          attempts.add(System.nanoTime());
          return failed.getAndSet(true)
              ? new CompletableFuture<>()
              : CompletableFuture.failedFuture(new ResourceExhaustedException("no H100 left"));
        });
    machine.tell(new MachineProtocol.HostUsed(host.getRef()));
    host.expectMessageClass(SessionHost.Offline.class); // it could not resume

    host.expectMessageClass(SessionHost.Offline.class); // it has waited
    machine.tell(new MachineProtocol.HostUsed(host.getRef()));

    await().atMost(LIMIT).until(() -> attempts.size() == 2);
    assertThat(Duration.ofNanos(-attempts.remove() + attempts.remove()))
        .isGreaterThanOrEqualTo(RESUME_RETRY);
    assertThat(info().state()).isEqualTo(MachineState.PROVISIONING);
  }

  private TestProbe<SessionHost.Command> openAndPause() {
    open(node);
    TestProbe<SessionHost.Command> host = join(true);
    ask(MachineProtocol.Pause::new, MachineInfo.class);
    saved(host, "");
    host.expectMessageClass(SessionHost.Offline.class);
    return host;
  }

  /** Reports that the host has saved its sessions, or why it has not. */
  private static void saved(TestProbe<SessionHost.Command> host, String failure) {
    SessionHost.Save asked = host.expectMessageClass(SessionHost.Save.class);
    asked.replyTo().tell(new MachineProtocol.HostSaved(host.getRef(), asked.pause(), failure));
  }

  /** A host that announces itself, as one on another member would. */
  private TestProbe<SessionHost.Command> join(boolean linked) {
    TestProbe<SessionHost.Command> host = kit.createTestProbe();
    machine.tell(new MachineProtocol.HostPresent(host.getRef(), linked, 0));
    return host;
  }
}
