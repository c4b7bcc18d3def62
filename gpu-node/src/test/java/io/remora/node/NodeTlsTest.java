// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkCertificate;
import io.remora.actors.link.LinkTls;
import io.remora.actors.link.proto.Refused;
import io.remora.provider.LaunchToken;
import io.remora.runtime.MachineSession;
import io.remora.runtime.SessionSettings;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NetworkInterface;
import java.net.Socket;
import java.time.Duration;
import java.util.Map;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A node process that other computers can reach, launched with its own certificate. */
@Tag("fast")
@Timeout(120)
class NodeTlsTest {

  private static final LaunchToken TOKEN = LaunchToken.random();
  private static final Duration LIMIT = Duration.ofSeconds(40);
  private static final Duration HOUR = Duration.ofHours(1);

  private static final LinkCertificate LAUNCHED = LinkCertificate.ephemeral("node", HOUR);
  private static final LinkCertificate OWNER = LinkCertificate.ephemeral("owner", HOUR);

  private static NodeProcess node;

  /** The owner with the launch token. Other owners get their tokens through it. */
  private static Owner first;

  @BeforeAll
  static void start() throws Exception {
    Map<String, String> environment = LinkTls.launchEnvironment(LAUNCHED, OWNER.pin());
    node =
        NodeProcess.start(
            environment,
            TOKEN,
            "remora.link.handshake-timeout = 5s",
            "--device",
            "cpu",
            "--listen",
            "0.0.0.0:0");
    first = Owner.dial(address(), LinkTls.pinned(OWNER, LAUNCHED.pin()));
    first.hello(Owner.hello(TOKEN));
    first.welcome();
  }

  @AfterAll
  static void stop() {
    first.close();
    node.close();
  }

  /** A non-loopback address of this computer, if it has one. */
  private static InetSocketAddress address() throws Exception {
    int port = node.address().getPort();
    return NetworkInterface.networkInterfaces()
        .flatMap(NetworkInterface::inetAddresses)
        .filter(found -> !found.isLoopbackAddress() && !found.isLinkLocalAddress())
        .findFirst()
        .map(found -> new InetSocketAddress(found, port))
        .orElseGet(() -> new InetSocketAddress(InetAddress.getLoopbackAddress(), port));
  }

  @Test
  void computesForItsOwner() throws Exception {
    Config config = ConfigFactory.load();
    try (Owner owner = Owner.dial(address(), LinkTls.pinned(OWNER, LAUNCHED.pin()))) {
      owner.hello(Owner.hello(first.issueToken()));
      owner.welcome();
      owner.openSession(1);
      try (MachineSession session = MachineSession.open("tls", 1, SessionSettings.from(config))) {
        session.connect(owner.sink(1, session));
        Tensor a = ones(100, 100).to(session.device(0), ScalarType.Float);
        for (int i = 0; i < 2_000; i++) {
          a = a.add(new Scalar(1));
        }
        assertThat(a.max().item_float()).isEqualTo(2001);
        assertThat(a.cpu().min().item_float()).isEqualTo(2001);
      }
    }
  }

  @Test
  void tellsAStrangerAndItsLogWhy() throws Exception {
    LinkCertificate stranger = LinkCertificate.ephemeral("stranger", HOUR);
    try (Owner owner = Owner.dial(address(), LinkTls.pinned(stranger, LAUNCHED.pin()))) {
      owner.send(FrameType.HELLO, 0, Owner.hello(TOKEN));

      assertThat(owner.awaitEnd())
          .hasMessageContaining("the peer refuses this side's certificate (certificate_unknown)");
    }
    await()
        .atMost(LIMIT)
        .untilAsserted(
            () ->
                assertThat(node.log())
                    .contains("ended before its handshake: this side refuses the peer's")
                    .contains("that of CN=stranger, SHA-256 " + stranger.pin()));
    computesForItsOwner();
  }

  @Test
  void tellsWhoForgotTlsAndClosesOnWhoSaysNothing() throws Exception {
    InetSocketAddress loopback =
        new InetSocketAddress(InetAddress.getLoopbackAddress(), node.address().getPort());
    try (Owner plain = Owner.dial(loopback);
        Socket silent = new Socket(loopback.getAddress(), loopback.getPort())) {
      plain.send(FrameType.HELLO, 0, Owner.hello(TOKEN));

      assertThat(plain.next(FrameType.REFUSED).as(Refused.parser()).getMessage())
          .contains("this port takes links with TLS only");
      silent.setSoTimeout((int) LIMIT.toMillis());
      assertThat(silent.getInputStream().read()).isEqualTo(-1);
    }
    await()
        .atMost(LIMIT)
        .untilAsserted(
            () ->
                assertThat(node.log())
                    .contains("the peer speaks without TLS")
                    .contains("no handshake within"));
  }

  @Test
  void keepsSecretsFromItsLog() throws Exception {
    computesForItsOwner();
    assertThat(node.log()).doesNotContain(TOKEN.value()).doesNotContain("PRIVATE KEY");
    assertThat(node.process().info().commandLine().orElse("")).doesNotContain("BEGIN");
  }
}
