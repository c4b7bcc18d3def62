// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.ones;

import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import io.remora.progress.Progress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** How much of a session is saved is reported while a slow disk takes it. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class SavingProgressTest {

  private static final int FLOATS = 2 << 20;

  private final BlockingQueue<Progress> reports = new LinkedBlockingQueue<>();

  @TempDir Path directory;

  @Test
  void aCheckpointAndAPauseTellTheirBytes() throws Exception {
    Path states = directory.resolve("states");
    Path stall = StallingStore.stallOf(states);
    try (RemoteMachine machine =
            RemoteMachine.builder()
                .provider("mock")
                .config(
                    ConfigFactory.parseString(
                            """
                            remora.state.store = stalling
                            remora.machine.resume-retry = 10 minutes
                            remora.recovery { mode = replay, checkpoint-interval = 100ms }
                            """)
                        .withValue(
                            "remora.state.directory",
                            ConfigValueFactory.fromAnyRef(states.toString())))
                .onProgress(reports::add)
                .open();
        Tensor ones = ones(FLOATS).to(machine.device(), ScalarType.Float)) {
      Files.createFile(stall);
      try (Tensor sum = ones.sum()) {
        assertThat(sum.item_float()).isEqualTo(FLOATS);
      }
      assertTellsItsBytes("checkpoint");
      Files.delete(stall);
      try (Tensor sum = ones.sum()) {
        assertThat(sum.item_float()).isEqualTo(FLOATS);
      }

      Files.createFile(stall);
      CompletableFuture<Void> pause = CompletableFuture.runAsync(machine::pause);
      assertTellsItsBytes("pause");
      Files.delete(stall);
      pause.get(60, TimeUnit.SECONDS);
      try (Tensor sum = ones.sum()) {
        assertThat(sum.item_float()).isEqualTo(FLOATS);
      }
    }
  }

  private void assertTellsItsBytes(String activity) throws InterruptedException {
    Progress report;
    do {
      report = reports.poll(30, TimeUnit.SECONDS);
      assertThat(report).as("a report of a %s with its bytes", activity).isNotNull();
    } while (!report.activity().equals(activity) || report.done() < (long) FLOATS * Float.BYTES);
    assertThat(report.unit()).isEqualTo("bytes");
    assertThat(report.total()).isGreaterThanOrEqualTo((long) FLOATS * Float.BYTES);
    assertThat(report.fraction()).isGreaterThan(0.99);
  }
}
