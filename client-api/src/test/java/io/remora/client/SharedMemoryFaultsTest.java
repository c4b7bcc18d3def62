// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.rand;
import static org.bytedeco.pytorch.global.torch.zeros;

import com.typesafe.config.ConfigFactory;
import io.remora.actors.testkit.FaultForwarder;
import io.remora.runtime.NodeLostException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Collections;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Connections and nodes end in the middle of transfers through shared memory. */
@Tag("full")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class SharedMemoryFaultsTest {

  private static final Duration LIMIT = Duration.ofSeconds(30);

  private static RemoteMachine open(String ring) {
    return RemoteMachine.builder()
        .provider("faulty")
        .config(ConfigFactory.parseString("remora.link.shared-memory-bytes = " + ring))
        .open();
  }

  /** How many mappings of links' shared memory this process has. */
  private static long mapped() {
    try (Stream<String> lines = Files.lines(Path.of("/proc/self/maps"))) {
      return lines.filter(line -> line.contains("/dev/shm/remora-")).count();
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  /** The memory of a link that is gone may still be mapped for a moment. */
  private static void assertIsShared() {
    await().atMost(LIMIT).untilAsserted(() -> assertThat(mapped()).as("shared").isEqualTo(1));
  }

  /** A link's file has a name only while it is offered. Other processes may offer some, too. */
  private static void assertNothingIsLeft() {
    await().atMost(LIMIT).untilAsserted(() -> assertThat(mapped()).isZero());
    Set<Path> seen = named();
    await().atMost(LIMIT).until(() -> Collections.disjoint(named(), seen));
  }

  private static Set<Path> named() {
    try (Stream<Path> files = Files.list(Path.of("/dev/shm"))) {
      return files
          .filter(file -> file.getFileName().toString().startsWith("remora-"))
          .collect(Collectors.toSet());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"2 MiB", "32 MiB"})
  void nothingIsLostOrDoubledWhenConnectionsBreakInTransfers(String ring) throws Exception {
    try (RemoteMachine machine = open(ring)) {
      FaultForwarder network = FaultyProvider.forwarder(machine);
      Tensor counter = zeros(1).to(machine.device(), ScalarType.Float);
      Tensor local = rand(5_000_000);
      Tensor remote = local.to(machine.device(), ScalarType.Float);
      machine.synchronize();
      assertIsShared();

      for (int i = 1; i <= 8; i++) {
        counter.add_(new Scalar(1f));
        CompletableFuture<Tensor> download = machine.read(remote).toCompletableFuture();
        if (i % 2 == 0) {
          network.cut();
        }
        Tensor uploaded = local.to(machine.device(), ScalarType.Float);
        counter.add_(new Scalar(1f));
        if (i % 2 == 1) {
          network.cut();
        }
        Tensor difference = uploaded.sub(remote).abs().sum();
        assertThat(difference.item_float()).isZero();
        assertThat(counter.item_float()).as("each batch ran once").isEqualTo(2f * i);
        assertThat(download.get(30, TimeUnit.SECONDS).equal(local)).isTrue();
        uploaded.close();
      }

      assertThat(network.connections()).isGreaterThanOrEqualTo(9);
      assertIsShared();
    }
    assertNothingIsLeft();
  }

  @Test
  void aNodeThatIsKilledInATransferIsLost() throws Exception {
    Set<Long> before = children();
    RemoteMachine machine = open("4 MiB");
    long node = children().stream().filter(pid -> !before.contains(pid)).findFirst().orElseThrow();
    Tensor local = rand(16_000_000);
    Tensor remote = local.to(machine.device(), ScalarType.Float);
    machine.synchronize();
    assertIsShared();

    CompletableFuture<Tensor> download = machine.read(remote).toCompletableFuture();
    assertThat(new ProcessBuilder("kill", "-KILL", Long.toString(node)).start().waitFor()).isZero();

    assertThatThrownBy(() -> uploadUntilFailure(machine, local))
        .isInstanceOf(NodeLostException.class);
    try {
      // It may have arrived just before.
      assertThat(download.get(30, TimeUnit.SECONDS).equal(local)).isTrue();
    } catch (ExecutionException e) {
      assertThat(e).hasCauseInstanceOf(NodeLostException.class);
    }
    assertThatThrownBy(machine::close).isInstanceOf(NodeLostException.class);
    assertNothingIsLeft();
  }

  /** The loss takes a moment to reach the program. */
  private static void uploadUntilFailure(RemoteMachine machine, Tensor local) {
    long deadline = System.nanoTime() + LIMIT.toNanos();
    while (System.nanoTime() < deadline) {
      local.to(machine.device(), ScalarType.Float).close();
    }
  }

  private static Set<Long> children() {
    return ProcessHandle.current().children().map(ProcessHandle::pid).collect(Collectors.toSet());
  }
}
