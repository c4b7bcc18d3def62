// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Another thread pauses the machine again and again while it trains: the losses do not change. */
@Tag("full")
@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class PauseAtAnyMomentTest {

  private static final int ROUNDS = 20;
  private static final int PAUSES = 15;

  @TempDir private Path directory;

  @Test
  void lossesAreThoseOfAnUndisturbedRun() throws Exception {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    ExecutorService thread = Executors.newSingleThreadExecutor();
    try (RemoteMachine machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(
                ConfigFactory.empty()
                    .withValue(
                        "remora.state.directory",
                        ConfigValueFactory.fromAnyRef(directory.resolve("states").toString())))
            .open()) {
      List<Float> undisturbed = new ArrayList<>();
      PauseTest.train(machine, step -> {}, undisturbed);
      AtomicBoolean done = new AtomicBoolean();
      Future<?> pausing =
          thread.submit(
              () -> {
                for (int i = 0; i < PAUSES; i++) {
                  Thread.sleep(random.nextInt(100));
                  machine.pause();
                }
                done.set(true);
                return null;
              });
      int rounds = 0;
      while (rounds < ROUNDS || !done.get()) {
        List<Float> losses = new ArrayList<>();
        PauseTest.train(machine, step -> {}, losses);
        assertThat(losses).as("round %d, seed %d", rounds, seed).isEqualTo(undisturbed);
        rounds++;
      }
      pausing.get(60, TimeUnit.SECONDS);
    } finally {
      thread.shutdownNow();
    }
    try (var left = Files.list(directory.resolve("states"))) {
      assertThat(left).isEmpty();
    }
  }
}
