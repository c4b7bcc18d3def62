// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.zeros;

import com.typesafe.config.ConfigFactory;
import io.remora.provider.LaunchToken;
import io.remora.runtime.MachineSession;
import io.remora.runtime.SessionSettings;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** A machine's side and the process of its node share memory, or do without. */
@Tag("full")
@Timeout(120)
class SharedMemoryTest {

  private static final Duration LIMIT = Duration.ofSeconds(60);
  private static final AtomicInteger MACHINES = new AtomicInteger();

  /** 24 MB: more than some of the rings. */
  private static final long ELEMENTS = 3_000_001;

  private NodeProcess node;

  @AfterEach
  void stop() throws Exception {
    node.close();
    assertThat(node.process().waitFor(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    await().atMost(LIMIT).untilAsserted(() -> assertThat(mapped("self")).isZero());
    // A file has a name for a moment only. Those of other processes come and go.
    await().atMost(LIMIT).untilAsserted(() -> assertThat(named()).isEmpty());
  }

  private static List<Path> named() throws IOException {
    try (Stream<Path> files = Files.list(Path.of("/dev/shm"))) {
      return files.filter(file -> file.getFileName().toString().startsWith("remora-")).toList();
    }
  }

  /** How many mappings of links' shared memory a process has. */
  private static long mapped(String process) {
    try (Stream<String> lines = Files.lines(Path.of("/proc", process, "maps"))) {
      return lines.filter(line -> line.contains("/dev/shm/remora-")).count();
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  /** Starts a node after a shell command, "" for none, and connects to it. */
  private Owner connect(String configuration, String mount) throws Exception {
    LaunchToken token = LaunchToken.random();
    node = NodeProcess.start(mount, token, configuration, "--device=cpu", "--compute-threads=1");
    return Owner.connect(node.address(), token);
  }

  @ParameterizedTest
  @CsvSource({"0, false", "1 MiB, true", "32 MiB, true"})
  void carriesTheTransfersOfTwoSessionsInOrder(String ring, boolean shared) throws Exception {
    try (Owner owner = connect("remora.link.shared-memory-bytes = " + ring, "")) {
      owner.openSession(1);
      owner.openSession(2);

      CompletableFuture<Void> one = CompletableFuture.runAsync(() -> transfer(owner, 1));
      CompletableFuture<Void> two = CompletableFuture.runAsync(() -> transfer(owner, 2));

      CompletableFuture.allOf(one, two).get(60, TimeUnit.SECONDS);
      assertThat(owner.sharesMemory()).isEqualTo(shared);
      assertThat(mapped("self")).isEqualTo(shared ? 1 : 0);
      assertThat(mapped(Long.toString(node.process().pid()))).isEqualTo(shared ? 1 : 0);
    }
  }

  /** Large transfers both ways, with small batches between them. */
  private static void transfer(Owner owner, long number) {
    try (MachineSession session =
        MachineSession.open(
            "shared-" + MACHINES.incrementAndGet(),
            1,
            SessionSettings.from(ConfigFactory.load()))) {
      session.connect(owner.sink(number, session));
      Tensor counter = zeros(1).to(session.device(0), ScalarType.Float);
      Tensor local = arange(new Scalar(ELEMENTS)).add(new Scalar(number));
      for (int i = 1; i <= 5; i++) {
        Tensor remote = local.to(session.device(0), ScalarType.Long);
        counter.add_(new Scalar(1f));
        remote.add_(new Scalar(i));
        CompletableFuture<Tensor> back = session.read(remote).toCompletableFuture();
        remote.zero_();
        counter.add_(new Scalar(1f));
        assertThat(counter.item_float()).isEqualTo(2f * i);
        assertThat(back.get(60, TimeUnit.SECONDS).equal(local.add(new Scalar(i)))).isTrue();
        remote.close();
      }
    } catch (Exception e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void aFurtherConnectionHasMemoryOfItsOwn() throws Exception {
    Owner owner = connect("", "");
    owner.openSession(1);
    assertThat(owner.sharesMemory()).isTrue();
    String process = Long.toString(node.process().pid());
    for (int i = 0; i < 3; i++) {
      owner.cut();
      owner.awaitClosed();
      owner = owner.again(Owner.position(1, 0));
      owner.welcome();
      assertThat(owner.sharesMemory()).isTrue();
    }
    await().atMost(LIMIT).untilAsserted(() -> assertThat(mapped("self")).isEqualTo(1));
    await().atMost(LIMIT).untilAsserted(() -> assertThat(mapped(process)).isEqualTo(1));
    owner.close();
    owner.awaitClosed();
    await().atMost(LIMIT).untilAsserted(() -> assertThat(mapped(process)).isZero());
  }

  @Test
  void transfersSucceedWhenTheNodesMemoryIsFull() throws Exception {
    try (Owner owner = connect("", "mount -t tmpfs -o size=8m tmpfs /dev/shm")) {
      owner.openSession(1);
      assertThat(owner.sharesMemory()).isTrue();
      Path filler = Path.of("/proc/" + node.process().pid() + "/root/dev/shm/filler");
      assertThatThrownBy(() -> Files.write(filler, new byte[16 << 20]))
          .hasMessageContaining("No space left on device");

      transfer(owner, 1);

      await().atMost(LIMIT).until(() -> node.log().contains("no more shared memory for a link"));
      assertThat(node.log().split("no more shared memory for a link", -1)).hasSize(2);
    }
  }

  @Test
  void transfersSucceedWhenTheNodeHasNoSuchMemory() throws Exception {
    try (Owner owner = connect("", "mount -t tmpfs -o ro tmpfs /dev/shm")) {
      owner.openSession(1);
      assertThat(owner.sharesMemory()).isFalse();

      transfer(owner, 1);

      await().atMost(LIMIT).until(() -> node.log().contains("uses TCP alone: no shared memory"));
      assertThat(node.log().split("uses TCP alone: no shared memory", -1)).hasSize(2);
    }
  }
}
