// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;

import io.remora.actors.StorageState;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.stream.Stream;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A million storages that live on one machine at the same time. Prints their cost. */
@Tag("full")
@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ManyStoragesTest {

  private static final int COUNT = 1_000_000;
  private static final Duration LIMIT = Duration.ofMinutes(2);

  @Test
  void areHeldAndFreed() throws Exception {
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      Path node = Path.of("/proc/" + MockNodes.only().pid() + "/status");
      Path program = Path.of("/proc/self/status");
      Tensor one = ones(1).to(machine.device(), ScalarType.Float);
      Tensor[] tensors = new Tensor[COUNT];
      assertThat(one.add(one).item_float()).isEqualTo(2f);
      System.gc();
      long heapBefore = usedHeap();
      long programBefore = residentBytes(program);
      long nodeBefore = residentBytes(node);

      long start = System.nanoTime();
      for (int i = 0; i < COUNT; i++) {
        tensors[i] = one.add(one);
      }
      machine.synchronize();
      double made = seconds(start);
      await().atMost(LIMIT).until(() -> machine.stats().get("storages") >= COUNT);
      // By now every storage would have an actor if there were no limit.
      await().atMost(LIMIT).until(() -> machine.stats().get("storage.actors") == 10_000);

      System.gc();
      System.out.printf(
          "%,d storages: made in %.1f s; bytes each: %.0f in the program, %.0f of them Java heap; %.0f in the node%n",
          COUNT,
          made,
          (residentBytes(program) - programBefore) / (double) COUNT,
          (usedHeap() - heapBefore) / (double) COUNT,
          (residentBytes(node) - nodeBefore) / (double) COUNT);
      assertThat(machine.storage(tensors[COUNT - 1]).state()).isEqualTo(StorageState.REALIZED);
      assertThat(machine.storage(tensors[COUNT / 2]).bytes()).isEqualTo(4);
      assertThat(tensors[COUNT - 1].item_float()).isEqualTo(2f);

      // The machine's actor still answers about as quickly as the node does.
      double[] asked = new double[50];
      double[] read = new double[asked.length];
      for (int i = 0; i < asked.length; i++) {
        long before = System.nanoTime();
        machine.stats();
        asked[i] = seconds(before);
        before = System.nanoTime();
        assertThat(tensors[i].item_float()).isEqualTo(2f);
        read[i] = seconds(before);
      }
      Arrays.sort(asked);
      Arrays.sort(read);
      System.out.printf(
          "an answer of its actor: median %.2f ms, longest %.1f ms; a read: median %.2f ms, longest %.1f ms%n",
          1e3 * asked[25], 1e3 * asked[49], 1e3 * read[25], 1e3 * read[49]);
      assertThat(asked[25]).isLessThan(50 * read[25]);

      start = System.nanoTime();
      for (Tensor tensor : tensors) {
        tensor.close();
      }
      machine.synchronize();
      await().atMost(LIMIT).until(() -> machine.stats().get("storages") <= 1);
      System.out.printf("freed in %.1f s%n", seconds(start));
      await().atMost(LIMIT).until(() -> machine.stats().get("storage.actors") <= 1);
      one.close();
    }
  }

  private static long usedHeap() {
    Runtime runtime = Runtime.getRuntime();
    return runtime.totalMemory() - runtime.freeMemory();
  }

  private static double seconds(long since) {
    return (System.nanoTime() - since) * 1e-9;
  }

  private static long residentBytes(Path status) throws IOException {
    try (Stream<String> lines = Files.lines(status)) {
      String resident = lines.filter(line -> line.startsWith("VmRSS")).findFirst().orElseThrow();
      return Long.parseLong(resident.replaceAll("[^0-9]", "")) * 1024;
    }
  }
}
