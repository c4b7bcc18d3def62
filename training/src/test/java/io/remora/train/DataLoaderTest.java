// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import io.remora.client.RemoteMachine;
import io.remora.client.TensorScope;
import java.io.IOException;
import java.nio.LongBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.LongStream;
import org.bytedeco.pytorch.Tensor;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
@SuppressWarnings("try") // the scopes are opened only to be closed
final class DataLoaderTest {
  private static final DataLoader.Source NUMBERS = indices -> List.of(Tensor.create(indices));
  private static final Duration LIMIT = Duration.ofSeconds(30);

  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    machine = RemoteMachine.open("mock");
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  @Test
  void givesEverySampleOnceOnTheDevice() {
    try (DataLoader loader =
        DataLoader.of(7, NUMBERS).batchSize(3).device(machine.device()).build()) {
      assertThat(loader.batches()).isEqualTo(3);
      List<Long> seen = new ArrayList<>();
      for (List<Tensor> batch : loader.epoch(0)) {
        assertThat(batch.get(0).is_privateuseone()).isTrue();
        seen.addAll(values(batch));
      }
      assertThat(seen).containsExactly(0L, 1L, 2L, 3L, 4L, 5L, 6L);
    }
  }

  @Test
  void theOrderDependsOnSeedAndEpochAlone() {
    List<List<Long>> epochs = new ArrayList<>();
    for (long seed : new long[] {1, 1, 2}) {
      try (DataLoader loader =
          DataLoader.of(10, NUMBERS).batchSize(4).dropLast().shuffle(seed).build()) {
        epochs.add(all(loader.epoch(0)));
        epochs.add(all(loader.epoch(1)));
      }
    }
    assertThat(epochs.get(0)).hasSize(8).doesNotHaveDuplicates();
    assertThat(epochs.get(2)).isEqualTo(epochs.get(0));
    assertThat(epochs.get(3)).isEqualTo(epochs.get(1)).isNotEqualTo(epochs.get(0));
    assertThat(epochs.get(4)).isNotEqualTo(epochs.get(0));
  }

  @Test
  void aResumedEpochHasTheBatchesThatAreLeft() {
    try (DataLoader loader = DataLoader.of(10, NUMBERS).batchSize(2).shuffle(3).build()) {
      List<Long> whole = all(loader.epoch(4));
      assertThat(all(loader.epoch(4, 3))).isEqualTo(whole.subList(6, 10));
      assertThat(all(loader.epoch(4, 5))).isEmpty();
    }
  }

  @Test
  void preparesAndUploadsAheadOfTheLoop() {
    AtomicInteger prepared = new AtomicInteger();
    DataLoader.Source counted =
        indices -> {
          prepared.incrementAndGet();
          return List.of(Tensor.create(indices));
        };
    try (DataLoader loader =
        DataLoader.of(10, counted).prefetch(2).device(machine.device()).build()) {
      Iterator<List<Tensor>> batches = loader.epoch(0).iterator();
      // Two wait in the queue, and the thread has one in its hands.
      await().atMost(LIMIT).untilAsserted(() -> assertThat(prepared).hasValue(3));
      machine.synchronize();
      long uploaded = machine.statistics().uploadedBytes();

      batches.next();

      machine.synchronize();
      assertThat(machine.statistics().uploadedBytes() - uploaded).isEqualTo(2L * Long.BYTES);
    }
  }

  @Test
  void aLoopWithScopesNeitherLosesNorKeepsBatches() {
    machine.synchronize();
    double storages = machine.stats().get("storages");
    long sum = 0;
    try (DataLoader loader =
        DataLoader.of(20, NUMBERS).batchSize(2).shuffle(1).device(machine.device()).build()) {
      Iterator<List<Tensor>> batches = loader.epoch(0).iterator();
      while (batches.hasNext()) {
        try (TensorScope step = TensorScope.open()) {
          sum += batches.next().get(0).sum().item_long();
        }
      }
      loader.epoch(1).iterator().next();
    }
    assertThat(sum).isEqualTo(190);
    machine.synchronize();
    assertThat(machine.stats().get("storages")).isEqualTo(storages);
  }

  @Test
  void throwsInTheLoopWhatTheSourceHasThrown() {
    DataLoader.Source faulty =
        indices -> {
          if (indices[0] == 2) {
            throw new IOException("no file for sample 2");
          }
          return List.of(Tensor.create(indices));
        };
    try (DataLoader loader = DataLoader.of(5, faulty).build()) {
      List<Long> seen = new ArrayList<>();
      Iterator<List<Tensor>> batches = loader.epoch(0).iterator();
      assertThatThrownBy(() -> batches.forEachRemaining(batch -> seen.addAll(values(batch))))
          .isInstanceOf(IllegalStateException.class)
          .hasRootCauseMessage("no file for sample 2");
      assertThat(seen).containsExactly(0L, 1L);
      assertThat(batches.hasNext()).isFalse();
    }
    IllegalArgumentException own = new IllegalArgumentException("own");
    DataLoader.Source other =
        indices -> {
          throw own;
        };
    try (DataLoader loader = DataLoader.of(5, other).build()) {
      assertThatThrownBy(() -> loader.epoch(0).iterator().next()).isSameAs(own);
    }
  }

  @Test
  void closingEndsAThreadThatIsPreparing() throws InterruptedException {
    CountDownLatch started = new CountDownLatch(1);
    CountDownLatch interrupted = new CountDownLatch(1);
    DataLoader.Source endless =
        indices -> {
          started.countDown();
          try {
            new CountDownLatch(1).await();
          } catch (InterruptedException e) {
            interrupted.countDown();
            throw e;
          }
          return List.of();
        };
    DataLoader loader = DataLoader.of(5, endless).build();
    Iterator<List<Tensor>> batches = loader.epoch(0).iterator();
    started.await();

    loader.close();

    assertThat(interrupted.await(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    assertThat(batches.hasNext()).isFalse();
    assertThatThrownBy(() -> loader.epoch(1)).hasMessage("The data loader is closed");
  }

  private static List<Long> all(Iterable<List<Tensor>> epoch) {
    List<Long> all = new ArrayList<>();
    epoch.forEach(batch -> all.addAll(values(batch)));
    return all;
  }

  private static List<Long> values(List<Tensor> batch) {
    try (TensorScope scope = TensorScope.open()) {
      LongBuffer values = batch.get(0).cpu().createBuffer();
      return LongStream.generate(values::get).limit(values.remaining()).boxed().toList();
    }
  }
}
