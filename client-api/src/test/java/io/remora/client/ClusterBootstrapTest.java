// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.RemoraCluster;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Members that find each other by Cluster Bootstrap. */
@Tag("full")
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ClusterBootstrapTest {

  @Test
  void aNodeAndAProgramFindEachOther() throws Exception {
    int nodePort = FreePorts.next();
    int programPort = FreePorts.next();
    String settings =
        """
        akka.discovery {
          method = config
          config.services.remora.endpoints = [
            { host = "127.0.0.1", port = %d }, { host = "127.0.0.1", port = %d }]
        }
        akka.management.cluster.bootstrap.contact-point-discovery {
          service-name = remora
          required-contact-point-nr = 2
          stable-margin = 1s
        }
        akka.management.cluster.bootstrap.contact-point.filter-on-fallback-port = false
        """
            .formatted(nodePort, programPort);
    Config program =
        ConfigFactory.parseString(
                settings
                    + "remora.metrics.http = %d, remora.cluster.seed-nodes = [bootstrap]"
                        .formatted(programPort))
            .withFallback(ConfigFactory.load())
            .resolve();
    try (ClusterMember node = ClusterMember.bootstrappedNode(settings, nodePort);
        RemoraCluster cluster = RemoraCluster.acquire(program);
        RemoteMachine machine =
            RemoteMachine.builder()
                .system(cluster.system())
                .provider("cluster")
                .timeout(Awaited.LIMIT)
                .open();
        Tensor ones = torch.ones(10).to(machine.device(), torch.ScalarType.Float);
        Tensor sum = ones.sum()) {
      node.await("remora-node listening on");
      assertThat(sum.item_float()).isEqualTo(10);
    }
  }

  @Test
  void saysThatItNeedsTheEndpoint() {
    Config config =
        ConfigFactory.parseString("remora.cluster.seed-nodes = [bootstrap]")
            .withFallback(ConfigFactory.load())
            .resolve();

    assertThatThrownBy(() -> RemoraCluster.acquire(config))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("remora.metrics.http");
  }
}
