// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * A program that has not closed its machine, and has work pending, ends quickly and without
 * needless output, however it ends. Its machine ends with it.
 */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class JvmShutdownTest {

  /** Queues minutes of work, reports that it is pending, and then runs its last line. */
  private static final String PROGRAM =
      """
      import com.typesafe.config.ConfigFactory;
      import io.remora.client.RemoteMachine;
      import org.bytedeco.pytorch.Tensor;
      import org.bytedeco.pytorch.global.torch;

      public class LeavesItOpen {
        public static void main(String[] args) throws Exception {
          RemoteMachine machine =
              RemoteMachine.builder()
                  .provider("mock")
                  .config(
                      ConfigFactory.parseString(
                          "remora.client.shutdown-timeout = 2 s, remora.node.orphan-timeout = 5 s,"
                              + "remora.link.heartbeat-interval = 200 ms,"
                              + "remora.link.heartbeat-timeout = 5 s"))
                  .open();
          Tensor x = torch.ones(3).to(machine.device(), torch.ScalarType.Float);
          System.out.println("sum " + x.sum().item_float());
          ProcessHandle.current().children().forEach(child -> System.out.println(child.pid()));
          Tensor y = torch.ones(3000, 3000).to(machine.device(), torch.ScalarType.Float);
          Tensor product = y.clone();
          for (int i = 0; i < 1000; i++) {
            torch.mm_out(product, y, y);
          }
          System.out.println("pending");
          %s
        }
      }
      """;

  private static final String READ = "y.sum().item_float();";

  @TempDir private Path directory;

  @Test
  @Tag("full")
  void whenMainReturns() throws Exception {
    ProgramRunner program = new ProgramRunner(directory);
    Process process = start(program, "");

    assertEndsCleanly(program, process, 0);
  }

  @Test
  @Tag("full")
  void whenTheProgramExits() throws Exception {
    ProgramRunner program = new ProgramRunner(directory);
    Process process = start(program, "System.exit(3);");

    assertEndsCleanly(program, process, 3);
  }

  @Test
  @Tag("full")
  void whenItIsInterruptedWhileItWaits() throws Exception {
    ProgramRunner program = new ProgramRunner(directory);
    Process process = start(program, READ);

    pressCtrlC(process);

    assertEndsCleanly(program, process, 128 + 2);
  }

  @Test
  @Tag("full")
  void whenItIsInterruptedWhileItRecords() throws Exception {
    ProgramRunner program = new ProgramRunner(directory);
    Process process = start(program, "while (true) { x = x.add(x); x.sum(); }");

    pressCtrlC(process);

    assertEndsCleanly(program, process, 128 + 2);
  }

  @Test
  @Tag("fast")
  void whenItIsKilled() throws Exception {
    ProgramRunner program = new ProgramRunner(directory);
    Process process = start(program, READ);

    signal("KILL", process);

    assertThat(program.await(process).exitCode()).isEqualTo(128 + 9);
    assertNodeEnds(program);
  }

  @Test
  @Tag("full")
  void whenItStandsStillForTooLong() throws Exception {
    ProgramRunner program = new ProgramRunner(directory);
    Process process = start(program, READ);

    signal("STOP", process);

    try {
      // remora.link.heartbeat-timeout, remora.node.orphan-timeout and remora.node.shutdown-grace
      assertNodeEnds(program);
    } finally {
      signal("CONT", process);
    }
    ProgramRunner.Outcome outcome = program.await(process);
    assertThat(outcome.exitCode()).isEqualTo(1);
    assertThat(outcome.errors())
        .contains("NodeLostException")
        .contains("(remora.node.orphan-timeout)");
  }

  private static Process start(ProgramRunner program, String lastLine) throws IOException {
    Process process = program.start("LeavesItOpen", PROGRAM.formatted(lastLine));
    await()
        .atMost(Awaited.LIMIT)
        .until(() -> !process.isAlive() || program.output().contains("pending"));
    return process;
  }

  private static void assertEndsCleanly(ProgramRunner program, Process process, int exitCode)
      throws Exception {
    ProgramRunner.Outcome outcome = program.await(process); // in less time than the work takes

    assertThat(outcome.exitCode()).as(outcome.errors()).isEqualTo(exitCode);
    assertThat(outcome.output()).contains("sum 3.0");
    assertThat(outcome.errors())
        .contains("was left open: closing it")
        .doesNotContain("Exception")
        .doesNotContain("\tat ");
    assertNodeEnds(program);
  }

  private static void assertNodeEnds(ProgramRunner program) throws IOException {
    long node =
        Long.parseLong(
            program.output().lines().filter(l -> l.matches("\\d+")).findFirst().orElseThrow());
    await().atMost(Awaited.LIMIT).until(() -> hasEnded(node));
  }

  /** True for a zombie as well, whose exit code nobody has read yet. */
  private static boolean hasEnded(long pid) {
    try {
      return Files.readString(Path.of("/proc", Long.toString(pid), "stat")).contains(") Z ");
    } catch (IOException e) {
      return true;
    }
  }

  /** A terminal signals the whole process group, including the node. */
  private static void pressCtrlC(Process process) throws Exception {
    kill("INT", "-" + process.pid());
  }

  private static void signal(String name, Process process) throws Exception {
    kill(name, Long.toString(process.pid()));
  }

  private static void kill(String signal, String target) throws Exception {
    assertThat(new ProcessBuilder("kill", "-" + signal, "--", target).start().waitFor()).isZero();
  }
}
