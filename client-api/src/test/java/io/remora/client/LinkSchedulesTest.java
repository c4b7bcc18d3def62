// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.cross_entropy_loss;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.randn;

import com.typesafe.config.ConfigFactory;
import io.remora.actors.testkit.FaultForwarder;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Adam;
import org.bytedeco.pytorch.AdamOptions;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * A training run under random faults of the network, with a seed for each schedule: the losses and
 * the weights are those of an undisturbed run, bit for bit, and nothing is left on the node. {@code
 * -Dremora.faults.seed=17} sets the first seed.
 */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class LinkSchedulesTest {

  private static final String QUICK =
      """
      remora.link {
        heartbeat-interval = 100 ms
        heartbeat-timeout = 700 ms
        handshake-timeout = 700 ms
        redial.max-backoff = 200 ms
        chunk-bytes = 16 KiB
      }
      """;

  private static final int STEPS = 150;
  private static final Duration LONG_RUN = Duration.ofSeconds(30);

  @Test
  @Tag("full")
  void manySchedulesChangeNothing() {
    long seed = Long.getLong("remora.faults.seed", 1);
    long end = System.nanoTime() + LONG_RUN.toNanos();
    try (RemoteMachine machine =
        RemoteMachine.builder()
            .provider("faulty")
            .config(ConfigFactory.parseString(QUICK))
            .open()) {
      FaultForwarder network = FaultyProvider.forwarder(machine);
      List<Float> undisturbed = train(machine);
      int faults = 0;
      for (; System.nanoTime() < end; seed++) {
        List<Float> disturbed;
        try (Schedule schedule = new Schedule(network, seed)) {
          disturbed = train(machine);
          faults += schedule.faults();
        }
        assertThat(disturbed).as("seed %d", seed).isEqualTo(undisturbed);
        machine.synchronize();
        assertThat(machine.memory(0).allocated()).as("bytes on the node, seed %d", seed).isZero();
        await()
            .atMost(Awaited.LIMIT)
            .untilAsserted(() -> assertThat(machine.info().liveStorages()).isZero());
      }
      System.out.printf(
          "%d faults, %d connections, seeds up to %d%n", faults, network.connections(), seed - 1);
      assertThat(faults).isPositive();
      assertThat(network.connections()).isGreaterThan(1);
    }
  }

  /** Returns the losses, and after them the weights. */
  private static List<Float> train(RemoteMachine machine) {
    List<Float> results = new ArrayList<>();
    try (PointerScope scope = new PointerScope()) {
      manual_seed(3);
      LinearImpl model = new LinearImpl(200, 10);
      model.to(machine.device(), ScalarType.Float, false);
      Adam optimizer = new Adam(model.parameters(), new AdamOptions(0.01));
      for (int step = 0; step < STEPS; step++) {
        try (PointerScope each = new PointerScope()) {
          Tensor images = randn(64, 200).to(machine.device(), ScalarType.Float);
          Tensor labels = randint(10, new long[] {64}).to(machine.device(), ScalarType.Long);
          optimizer.zero_grad();
          Tensor loss = cross_entropy_loss(model.forward(images), labels);
          loss.backward();
          optimizer.step();
          results.add(loss.item_float());
        }
      }
      Tensor weight = model.weight().detach().cpu();
      FloatPointer values = weight.data_ptr_float();
      for (long i = 0; i < weight.numel(); i++) {
        results.add(values.get(i));
      }
      model.parameters().close();
    }
    return results;
  }

  /** Injects faults at random moments until it is closed; then the network works again. */
  private static final class Schedule implements AutoCloseable {

    private final FaultForwarder network;
    private final Random random;
    private final CountDownLatch over = new CountDownLatch(1);
    private final Thread thread;
    private final AtomicInteger faults = new AtomicInteger();

    Schedule(FaultForwarder network, long seed) {
      this.network = network;
      this.random = new Random(seed);
      this.thread = new Thread(this::run, "faults-" + seed);
      thread.start();
    }

    int faults() {
      return faults.get();
    }

    private void run() {
      while (!over(5 + random.nextInt(40))) {
        NetworkFaults.inject(network, random, this::over);
        faults.incrementAndGet();
      }
      network.refuse(false);
      network.heal();
    }

    /** Waits for at most {@code millis}; returns whether the schedule is over. */
    private boolean over(int millis) {
      try {
        return over.await(millis, TimeUnit.MILLISECONDS);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        return true;
      }
    }

    @Override
    public void close() {
      over.countDown();
      try {
        thread.join();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    }
  }
}
