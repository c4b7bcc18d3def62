// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.ones;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Reason;
import io.remora.provider.LaunchToken;
import io.remora.runtime.MachineSession;
import io.remora.runtime.SessionSettings;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Connections that the link port refuses or ends. */
@Tag("fast")
@Timeout(60)
class LinkServerTest {

  private static final LaunchToken TOKEN = LaunchToken.random();

  private EmbeddedNode node;

  @AfterEach
  void stop() {
    node.close();
  }

  @Test
  void closesAConnectionThatSaysNothing() throws Exception {
    start("remora.link.handshake-timeout = 4s");
    try (Socket silent = new Socket(node.address().getAddress(), node.address().getPort());
        Owner owner = Owner.connect(node.address(), TOKEN)) {
      silent.setSoTimeout(40_000);
      // Heartbeats come until the node closes the connection, within the socket's timeout.
      assertThat(silent.getInputStream().readAllBytes()).isNotNull();

      owner.openSession(1);
    }
  }

  @Test
  void takesNoMoreConnectionsThanItsLimit() throws Exception {
    start("remora.node.max-connections = 3");
    List<Owner> owners = new ArrayList<>();
    try {
      owners.add(Owner.connect(node.address(), TOKEN));
      for (int i = 1; i < 3; i++) {
        owners.add(owners.get(0).another());
      }
      try (Owner tooMuch = Owner.dial(node.address())) {
        tooMuch.awaitClosed();
      }
      owners.get(0).openSession(1);
    } finally {
      owners.forEach(Owner::close);
    }
  }

  @Test
  void letsOwnersInWhileStrangersHoldItsConnections() throws Exception {
    start("remora.node.max-connections = 4, remora.link.handshake-timeout = 1 hour");
    List<Socket> strangers = new ArrayList<>();
    try (Owner first = Owner.connect(node.address(), TOKEN)) {
      for (int i = 0; i < 20; i++) {
        Socket stranger = new Socket(node.address().getAddress(), node.address().getPort());
        strangers.add(stranger);
        stranger.getOutputStream().write(new byte[i]); // less than a frame's header
      }

      try (Owner second = first.another()) {
        second.openSession(2);
        first.openSession(1);
      }

      strangers.get(0).setSoTimeout(40_000);
      assertThat(strangers.get(0).getInputStream().read()).isEqualTo(-1);
    } finally {
      for (Socket stranger : strangers) {
        stranger.close();
      }
    }
  }

  @Test
  void closesAConnectionThatSendsWithoutWaitingForAcknowledgements() throws Exception {
    start("remora.link { max-in-flight-bytes = 1 MiB, max-frame-bytes = 2 MiB }");
    Config config = ConfigFactory.load();
    try (Owner owner = Owner.connect(node.address(), TOKEN);
        MachineSession session = MachineSession.open("eager", 1, SessionSettings.from(config))) {
      owner.openSession(1);
      session.connect(owner.sink(1, session));
      Tensor one = ones(1).to(session.device(0), ScalarType.Float);
      session.synchronize();
      // A few seconds of arithmetic, which delay the batches after it.
      Tensor matrix = one.expand(4000, 4000).contiguous();
      Tensor product = matrix.mm(matrix);
      assertThat(product.size(0)).isEqualTo(4000);
      ByteBuffer batch = ByteBuffer.allocateDirect(1 << 20);
      session.flush();

      for (int sequence = 100; sequence < 110; sequence++) {
        owner.sendBatches(1, sequence, batch);
      }

      Goodbye goodbye = owner.next(FrameType.GOODBYE).as(Goodbye.parser());
      assertThat(goodbye.getReason()).isEqualTo(Reason.REASON_MALFORMED);
      assertThat(goodbye.getMessage()).contains("must wait for acknowledgements");
      owner.awaitClosed();
    }
  }

  @Test
  void saysGoodbyeWhenTheNodeEnds() throws Exception {
    start("");
    try (Owner owner = Owner.connect(node.address(), TOKEN)) {
      owner.openSession(1);

      node.close();

      Goodbye goodbye = owner.next(FrameType.GOODBYE).as(Goodbye.parser());
      assertThat(goodbye.getReason()).isEqualTo(Reason.REASON_SHUTTING_DOWN);
      owner.awaitClosed();
      assertThat(node.terminated().toCompletableFuture()).succeedsWithin(Duration.ofSeconds(40));
    }
  }

  private void start(String settings) {
    Config config = ConfigFactory.parseString(settings).withFallback(ConfigFactory.load());
    node =
        EmbeddedNode.start(
            NodeOptions.defaults(TOKEN)
                .withDevices(DeviceChoice.CPU, Optional.empty(), Optional.empty()),
            config);
  }
}
