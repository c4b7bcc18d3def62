// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import akka.Done;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.LocalSessions;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineState;
import io.remora.actors.RemoraCluster;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.GpuType;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ProviderException;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Machines on a node that was started by hand. */
@Tag("fast")
@Timeout(120)
class AddressProviderTest {

  private static final Duration LIMIT = Duration.ofSeconds(40);
  private static final LaunchToken TOKEN = LaunchToken.random();

  private EmbeddedNode node;
  private RemoraCluster cluster;

  @BeforeEach
  void start() {
    node =
        EmbeddedNode.start(
            NodeOptions.defaults(TOKEN)
                .withDevices(DeviceChoice.CPU, Optional.empty(), Optional.empty()),
            ConfigFactory.load());
    cluster = RemoraCluster.acquire();
  }

  @AfterEach
  void stop() {
    cluster.release();
    node.close();
  }

  @Test
  void opensAMachineThereOnce() throws Exception {
    assertThat(open("by-hand", null, node(), TOKEN.value()).state()).isEqualTo(MachineState.READY);
    assertThat(
            LocalSessions.get(cluster.system())
                .open("by-hand", LIMIT)
                .toCompletableFuture()
                .get(LIMIT.toSeconds(), TimeUnit.SECONDS)
                .session())
        .isPositive();
    Done closed =
        cluster
            .machine("by-hand")
            .<Done>askWithStatus(MachineProtocol.Close::new, LIMIT)
            .toCompletableFuture()
            .get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    assertThat(closed).isNotNull();

    assertThatThrownBy(() -> open("by-hand", null, node(), TOKEN.value()))
        .hasCauseInstanceOf(AuthenticationException.class);
  }

  @Test
  void saysWhatIsMissingOrWrong() {
    assertThatThrownBy(() -> open("one", null, "", TOKEN.value()))
        .hasCauseInstanceOf(ProviderException.class)
        .hasMessageContaining("remora.provider.address: node must be set");
    assertThatThrownBy(() -> open("two", null, node(), "hunter2"))
        .hasCauseInstanceOf(ProviderException.class)
        .hasMessageContaining("remora.provider.address: not a launch token")
        .hasMessageNotContaining("hunter2");
    assertThatThrownBy(() -> open("three", GpuType.H100, node(), TOKEN.value()))
        .hasCauseInstanceOf(ProviderException.class)
        .hasMessageContaining("cannot choose a GPU");
  }

  private String node() {
    return "127.0.0.1:" + node.address().getPort();
  }

  private MachineInfo open(String name, GpuType gpu, String address, String token)
      throws Exception {
    String settings =
        "remora.provider.address { node = \"%s\", token = \"%s\" }".formatted(address, token);
    MachineSpec spec = new MachineSpec(name, "address", gpu, 1, null, LIMIT, settings);
    return cluster
        .machine(name)
        .<MachineInfo>askWithStatus(to -> new MachineProtocol.Open(spec, to), LIMIT)
        .toCompletableFuture()
        .get(LIMIT.toSeconds(), TimeUnit.SECONDS);
  }
}
