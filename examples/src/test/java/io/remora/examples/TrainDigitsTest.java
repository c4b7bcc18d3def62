// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Path;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;

@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class TrainDigitsTest {

  private static final Pattern ACCURACY =
      Pattern.compile("^(mlp|conv): test accuracy ([0-9.]+) %", Pattern.MULTILINE);

  @TempDir private Path states;

  @Test
  @Tag("fast")
  void remoteLossesHaveTheBitsOfLocalOnes() {
    Run run = run("--verify", "--epochs", "2");

    assertThat(run.exitCode()).as(run.output()).isZero();
    assertThat(run.output())
        .contains("mlp: 90 steps compared, 90 with equal bits, largest difference 0.00 -> EQUAL")
        .contains("conv: 90 steps compared, 90 with equal bits, largest difference 0.00 -> EQUAL")
        .contains("VERIFIED: every loss has the same bits");
  }

  @Test
  @Tag("full")
  void learnsTheDigitsLocally() {
    assertAccurate(run("--device", "local"));
  }

  @Test
  @Tag("full")
  void learnsTheDigitsOnTheMachine() {
    assertAccurate(run("--device", "remote"));
  }

  @Test
  @Tag("full")
  void remoteLossesHaveTheBitsOfLocalOnesToTheEndThoughItsNodesAreKilled() throws Exception {
    long seed = System.nanoTime();
    Map<String, String> settings =
        Map.of(
            "remora.recovery.mode", "replay",
            "remora.recovery.checkpoint-interval", "300 ms",
            "remora.recovery.retry", "100 ms",
            "remora.state.directory", states.toString());
    settings.forEach(System::setProperty);
    ConfigFactory.invalidateCaches();
    try (NodeKiller killer = new NodeKiller(states, new Random(seed))) {
      Run run = run("--verify", "--seed", "7");

      assertThat(run.exitCode()).as("seed %d: %s", seed, run.output()).isZero();
      assertThat(run.output()).contains("900 steps compared, 900 with equal bits");
      assertThat(killer.killed()).isPositive();
    } finally {
      settings.keySet().forEach(System::clearProperty);
      ConfigFactory.invalidateCaches();
    }
  }

  /**
   * Kills the child processes of this JVM, each at a random moment after it has made a checkpoint.
   */
  private static final class NodeKiller implements AutoCloseable {

    private static final int MOST = 5;

    private final AtomicInteger killed = new AtomicInteger();
    private final Thread thread;

    NodeKiller(Path states, Random random) {
      thread =
          new Thread(
              () -> {
                try {
                  Set<String> before = Set.of();
                  while (killed.get() < MOST) {
                    Set<String> checkpoints = names(states);
                    if (before.containsAll(checkpoints)) {
                      Thread.sleep(20);
                      continue;
                    }
                    before = checkpoints;
                    Thread.sleep(random.nextInt(300));
                    ProcessHandle.current()
                        .children()
                        .filter(ProcessHandle::destroyForcibly)
                        .forEach(child -> killed.incrementAndGet());
                  }
                } catch (InterruptedException e) {
                  // the training has ended
                }
              });
      thread.start();
    }

    private static Set<String> names(Path folder) {
      String[] names = folder.toFile().list();
      return names == null ? Set.of() : Set.of(names);
    }

    int killed() {
      return killed.get();
    }

    @Override
    public void close() throws InterruptedException {
      thread.interrupt();
      thread.join();
    }
  }

  @Test
  @Tag("critical")
  void refusesOptionsThatMakeNoSense() {
    assertThat(run("--epochs", "0").exitCode()).isEqualTo(CommandLine.ExitCode.USAGE);
    assertThat(run("--model", "transformer").exitCode()).isEqualTo(CommandLine.ExitCode.USAGE);
  }

  private static void assertAccurate(Run run) {
    assertThat(run.exitCode()).as(run.output()).isZero();
    Matcher matcher = ACCURACY.matcher(run.output());
    int networks = 0;
    while (matcher.find()) {
      assertThat(Double.parseDouble(matcher.group(2))).as(matcher.group()).isGreaterThan(95);
      networks++;
    }
    assertThat(networks).isEqualTo(2);
  }

  private static Run run(String... arguments) {
    StringWriter output = new StringWriter();
    CommandLine commandLine = TrainDigits.commandLine();
    commandLine.setOut(new PrintWriter(output, true));
    commandLine.setErr(new PrintWriter(output, true));
    return new Run(commandLine.execute(arguments), output.toString());
  }

  private record Run(int exitCode, String output) {}
}
