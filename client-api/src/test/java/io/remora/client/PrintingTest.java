// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Printing a tensor takes one download, not one for each element. */
@Tag("full")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class PrintingTest {

  private static final String PROGRAM =
      """
      import io.remora.client.RemoteMachine;
      import io.remora.runtime.SessionStatistics;
      import org.bytedeco.pytorch.Tensor;
      import org.bytedeco.pytorch.global.torch;

      public class PrintsATensor {
        public static void main(String[] args) {
          try (RemoteMachine machine = RemoteMachine.open("mock")) {
            Tensor remote = torch.ones(20, 30).to(machine.device(), torch.ScalarType.Float);
            machine.synchronize();
            SessionStatistics before = machine.statistics();
            torch.print(remote);
            SessionStatistics after = machine.statistics();
            System.out.println("reads " + (after.blockingReads() - before.blockingReads()));
            System.out.println("bytes " + (after.downloadedBytes() - before.downloadedBytes()));
          }
        }
      }
      """;

  @TempDir private Path directory;

  @Test
  void isOneDownload() throws IOException, InterruptedException {
    ProgramRunner.Outcome outcome = new ProgramRunner(directory).run("PrintsATensor", PROGRAM);

    assertThat(outcome.exitCode()).as(outcome.errors()).isZero();
    assertThat(outcome.output()).contains(" 1  1  1", "{20,30}", "reads 1\n");
    long bytes =
        outcome
            .output()
            .lines()
            .filter(line -> line.startsWith("bytes "))
            .mapToLong(line -> Long.parseLong(line.substring(6)))
            .findFirst()
            .orElseThrow();
    assertThat(bytes).isLessThanOrEqualTo(20 * 30 * Double.BYTES);
  }
}
