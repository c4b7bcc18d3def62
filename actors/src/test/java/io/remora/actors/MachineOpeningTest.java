// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import com.typesafe.config.Config;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.ResourceExhaustedException;
import java.time.Duration;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Provisioning a node and linking it: what can fail, and the messages. */
@Tag("fast")
@Timeout(60)
class MachineOpeningTest extends MachineFixture {

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
        kit.spawn(MachineActor.create("other", ActorsSettings.from(CONFIG)));
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
    configure("remora.machine.forget-failed-after = 500 ms");
    TestProvider.plan(
        name, (spec, context) -> CompletableFuture.failedFuture(new ProviderException("no luck")));
    assertThat(failure(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class)))
        .hasMessage("no luck");

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
    configure("remora.link { handshake-timeout = 500 ms, give-up-after = 500 ms }");
    node.answersHello = false;

    assertThat(openFailure())
        .isExactlyInstanceOf(ProviderException.class)
        .hasMessageContaining("remora.link.handshake-timeout");
    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
  }

  @Test
  void saysWhenTheNodeCannotBeReached() {
    configure("remora.link.connect-timeout = 500 ms");
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
    configure("remora.machine.exit-report-wait = 30 s");
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
}
