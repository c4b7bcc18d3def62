// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;

import com.typesafe.config.ConfigFactory;
import io.remora.provider.LaunchToken;
import io.remora.runtime.MachineSession;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.SessionSettings;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Leftovers in a node process of sessions that end abruptly. */
@Tag("fast")
@Timeout(120)
class SessionEndTest {

  private static final LaunchToken TOKEN = LaunchToken.random();

  private final ExecutorService background = Executors.newCachedThreadPool();

  @AfterEach
  void stop() {
    background.shutdownNow();
  }

  @Test
  void freesTheMemoryOfALinkThatEndsAndKeepsThatOfOthers() throws Exception {
    try (NodeProcess node = NodeProcess.start(TOKEN, "", "--device=cpu", "--compute-threads=1");
        Owner other = Owner.connect(node.address(), TOKEN);
        MachineSession lasting = session("lasting")) {
      other.openSession(1);
      lasting.connect(other.sink(1, lasting));
      Tensor kept = ones(3).to(lasting.device(0), ScalarType.Float);
      lasting.synchronize();
      long before = residentMebibytes(node);

      Owner owner = other.another();
      MachineSession lost = session("lost");
      owner.openSession(1);
      lost.connect(owner.sink(1, lost));
      Tensor large =
          ones(1).to(lost.device(0), ScalarType.Float).expand(1024, 1024, 256).contiguous();
      lost.synchronize();
      assertThat(residentMebibytes(node)).isGreaterThan(before + 900);

      owner.close();

      await()
          .atMost(Duration.ofSeconds(60))
          .untilAsserted(() -> assertThat(residentMebibytes(node)).isLessThan(before + 200));
      assertThat(kept.sum().item_float()).isEqualTo(3f);
      assertThat(large.numel()).isEqualTo(1L << 28);
      lost.close();
    }
  }

  @Test
  void endsWithItsOwnerEvenWhileAnOperatorRuns() throws Exception {
    try (NodeProcess node =
            NodeProcess.start(
                TOKEN, "", "--device=cpu", "--compute-threads=1", "--exit-with-stdin");
        Owner owner = Owner.connect(node.address(), TOKEN)) {
      MachineSession session = session("busy");
      owner.openSession(1);
      session.connect(owner.sink(1, session));
      Tensor one = ones(1).to(session.device(0), ScalarType.Float);
      session.synchronize();
      // About ten seconds of arithmetic. Once the node has computed for a while, it is at it.
      Duration before = cpuTime(node);
      Tensor matrix = one.expand(6000, 6000).contiguous();
      Tensor product = matrix.mm(matrix);
      CompletableFuture<Void> executed =
          CompletableFuture.runAsync(session::synchronize, background);
      await()
          .atMost(Duration.ofSeconds(60))
          .untilAsserted(() -> assertThat(cpuTime(node)).isGreaterThan(before.plusMillis(500)));
      assertThat(executed).isNotDone();

      node.closeStandardInput();

      // The node kills itself, because destructors during a running operator would crash it.
      assertThat(node.exitCode(Duration.ofSeconds(60))).isEqualTo(128 + 9);
      assertThat(catchThrowable(() -> executed.get(60, TimeUnit.SECONDS)))
          .hasCauseInstanceOf(NodeLostException.class);
      assertThat(product.size(0)).isEqualTo(6000);
      session.close();
    }
  }

  private static MachineSession session(String name) {
    return MachineSession.open(name, 1, SessionSettings.from(ConfigFactory.load()));
  }

  private static Duration cpuTime(NodeProcess node) {
    return node.process().info().totalCpuDuration().orElseThrow();
  }

  private static long residentMebibytes(NodeProcess node) throws IOException {
    Path status = Path.of("/proc", Long.toString(node.process().pid()), "status");
    return Files.readAllLines(status).stream()
        .filter(line -> line.startsWith("VmRSS:"))
        .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")) >> 10)
        .findFirst()
        .orElseThrow();
  }
}
