// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** A program that forgets to close its machine ends all the same, and so does the machine. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class JvmShutdownTest {

  private static final String PROGRAM =
      """
      import io.remora.client.RemoteMachine;
      import org.bytedeco.pytorch.Tensor;
      import org.bytedeco.pytorch.global.torch;

      public class LeavesItOpen {
        public static void main(String[] args) {
          RemoteMachine machine = RemoteMachine.open("mock");
          Tensor x = torch.ones(3).to(machine.device(), torch.ScalarType.Float);
          System.out.println("sum " + x.sum().item_float());
          ProcessHandle.current().children().forEach(child -> System.out.println(child.pid()));
          %s
        }
      }
      """;

  @TempDir private Path directory;

  @Test
  void whenMainReturns() throws IOException, InterruptedException {
    assertEnds("", 0);
  }

  @Test
  void whenTheProgramExits() throws IOException, InterruptedException {
    assertEnds("System.exit(3);", 3);
  }

  private void assertEnds(String lastLine, int exitCode) throws IOException, InterruptedException {
    ProgramRunner.Outcome outcome =
        new ProgramRunner(directory).run("LeavesItOpen", PROGRAM.formatted(lastLine));

    assertThat(outcome.exitCode()).as(outcome.errors()).isEqualTo(exitCode);
    assertThat(outcome.output()).contains("sum 3.0");
    assertThat(outcome.output() + outcome.errors()).contains("was left open: closing it");
    long node =
        Long.parseLong(
            outcome.output().lines().filter(l -> l.matches("\\d+")).findFirst().orElseThrow());
    await()
        .atMost(Duration.ofSeconds(10))
        .until(() -> ProcessHandle.of(node).filter(ProcessHandle::isAlive).isEmpty());
  }
}
