// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;

import com.typesafe.config.ConfigFactory;
import io.remora.actors.MachineState;
import io.remora.runtime.MachineStateException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * A second node, a process of its own, executes the same batches and takes the first one's place.
 */
@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class StandbyTest {

  @TempDir private Path directory;

  @BeforeEach
  void awaitTheEndsOfEarlierNodes() {
    MockNodes.awaitNone();
  }

  @Test
  @Tag("fast")
  void theMachineContinuesOnItsStandby() {
    try (RemoteMachine machine = open("checkpoint-interval = 1 h")) {
      awaitStandby(machine);
      List<ProcessHandle> nodes = MockNodes.all();
      assertThat(nodes).hasSize(2);

      List<Float> disturbed =
          SmallTraining.losses(
              machine,
              step -> {
                if (step == 6) {
                  awaitCaughtUp(machine);
                  MockNodes.kill(nodes.get(0));
                }
              });

      Awaited.figure(machine, "takeovers", 1.0);
      assertThat(machine.stats())
          .containsEntry("recoveries", 1.0)
          .containsEntry("checkpoints", 0.0);
      assertThat(nodes.get(1).isAlive()).isTrue();
      assertThat(disturbed).isEqualTo(SmallTraining.losses(machine, step -> {}));
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void eachLostNodeIsReplaced() {
    try (RemoteMachine machine = open("")) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});

      List<Float> disturbed =
          SmallTraining.losses(
              machine,
              step -> {
                if (step == 3 || step == 9) {
                  awaitStandby(machine);
                  MockNodes.kill(MockNodes.all().get(0)); // the node
                } else if (step == 6) {
                  awaitStandby(machine);
                  MockNodes.kill(MockNodes.all().get(1)); // the standby
                  // The next one is started after the machine has noticed the loss.
                  await().atMost(Awaited.LIMIT).until(() -> MockNodes.all().size() == 2);
                }
              });

      assertThat(disturbed).isEqualTo(undisturbed);
      Awaited.figure(machine, "takeovers", 2.0);
      assertThat(machine.stats()).containsEntry("recoveries", 2.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void withoutBothNodesTheMachineRecoversOnAThird() {
    try (RemoteMachine machine = open("checkpoint-interval = 100 ms")) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});

      List<Float> disturbed =
          SmallTraining.losses(
              machine,
              step -> {
                if (step == 6) {
                  awaitStandby(machine);
                  List<ProcessHandle> nodes = MockNodes.all();
                  // The standby must not take over between the two ends.
                  nodes.forEach(MockNodes::stop);
                  nodes.forEach(MockNodes::kill);
                }
              });

      assertThat(disturbed).isEqualTo(undisturbed);
      Awaited.figure(machine, "recoveries", 1.0);
      assertThat(machine.stats()).containsEntry("takeovers", 0.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void killsAtAnyMomentChangeNoValue() {
    long seed = Long.getLong("remora.faults.seed", System.nanoTime());
    Random random = new Random(seed);
    try (RemoteMachine machine = open("checkpoint-interval = 300 ms")) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});
      for (int round = 0; round < 8; round++) {
        List<ProcessHandle> nodes =
            await().atMost(Awaited.LIMIT).until(MockNodes::all, all -> !all.isEmpty());
        ProcessHandle victim = nodes.get(random.nextInt(nodes.size()));
        int step = random.nextInt(SmallTraining.STEPS);
        assertThat(
                SmallTraining.losses(
                    machine,
                    at -> {
                      if (at == step) {
                        victim.destroyForcibly();
                      }
                    }))
            .as("round %d, killed at step %d, seed %d", round, step, seed)
            .isEqualTo(undisturbed);
        if (random.nextBoolean()) {
          awaitStandby(machine);
        }
      }
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void aStandbyThatComesLaterRestoresACheckpoint() {
    try (RemoteMachine machine =
        open("checkpoint-bytes = 1 MiB, log-bytes = 4 MiB, checkpoint-interval = 1 h")) {
      Tensor sum = ones(250_000).to(machine.device(), ScalarType.Float);
      for (int i = 0; i < 20; i++) {
        sum.add_(ones(250_000).to(machine.device(), ScalarType.Float));
        machine.synchronize(); // only what the node has executed is in the log
        assertThat(machine.stats().get("recovery.log.bytes")).isLessThan(8 << 20);
      }
      awaitStandby(machine);
      awaitCaughtUp(machine);
      MockNodes.kill(MockNodes.all().get(0));

      assertThat(sum.sum().item_float()).isEqualTo(21 * 250_000f);
      Awaited.figure(machine, "takeovers", 1.0);
      assertThat(machine.stats().get("checkpoints")).isGreaterThanOrEqualTo(2.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void batchesOnDiskReachTheStandby() {
    try (RemoteMachine machine =
        open(
            "checkpoint-bytes = 60 MiB, log-bytes = 1 MiB, log-disk-bytes = 64 MiB, checkpoint-interval = 1 h")) {
      Tensor sum = ones(250_000).to(machine.device(), ScalarType.Float);
      for (int i = 0; i < 20; i++) {
        sum.add_(ones(250_000).to(machine.device(), ScalarType.Float));
      }
      awaitStandby(machine);
      awaitCaughtUp(machine);
      assertThat(machine.stats()).containsEntry("checkpoints", 0.0);
      MockNodes.kill(MockNodes.all().get(0));

      assertThat(sum.sum().item_float()).isEqualTo(21 * 250_000f);
      Awaited.figure(machine, "takeovers", 1.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void aPauseAndAMoveEndTheStandby() {
    try (RemoteMachine machine = open("")) {
      Tensor x = ones(1000).to(machine.device(), ScalarType.Float);
      awaitStandby(machine);
      List<ProcessHandle> nodes = MockNodes.all();

      machine.migrate();
      await().atMost(Awaited.LIMIT).until(() -> nodes.stream().noneMatch(ProcessHandle::isAlive));
      awaitStandby(machine);
      machine.pause();
      MockNodes.awaitNone();
      assertThat(machine.stats()).containsEntry("standby", 0.0);

      assertThat(x.add_(new Scalar(1f)).sum().item_float()).isEqualTo(2000f);
      awaitStandby(machine);
      MockNodes.kill(MockNodes.all().get(0));
      assertThat(x.add_(new Scalar(1f)).sum().item_float()).isEqualTo(3000f);
      Awaited.figure(machine, "takeovers", 1.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void aMachineWorksWithoutAStandbyThatCannotBeHad() throws IOException {
    Path java =
        Files.createSymbolicLink(
            directory.resolve("java"), Path.of(System.getProperty("java.home"), "bin", "java"));
    try (RemoteMachine machine = open("", "remora.provider.mock.java = \"" + java + "\"")) {
      awaitStandby(machine);
      Tensor x = ones(1000).to(machine.device(), ScalarType.Float);
      Files.delete(java);
      MockNodes.kill(MockNodes.all().get(1));
      await().atMost(Awaited.LIMIT).until(() -> machine.stats().get("standby") == 0);

      assertThat(x.add_(new Scalar(1f)).sum().item_float()).isEqualTo(2000f);
      assertThat(machine.state()).isEqualTo(MachineState.READY);
      Path unused =
          Files.createSymbolicLink(java, Path.of(System.getProperty("java.home"), "bin", "java"));
      awaitStandby(machine);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("fast")
  void needsReplay() {
    assertThatThrownBy(
            () ->
                RemoteMachine.builder()
                    .provider("mock")
                    .config(ConfigFactory.parseString("remora.recovery.mirror = on"))
                    .open())
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("remora.recovery.mirror = on needs remora.recovery.mode = replay");
  }

  // Tools

  private RemoteMachine open(String recovery) {
    return open(recovery, "");
  }

  private RemoteMachine open(String recovery, String more) {
    return states()
        .machine(
            "remora.recovery { mode = replay, mirror = on, retry = 200 ms, %s }\n%s"
                .formatted(recovery, more));
  }

  private static void awaitStandby(RemoteMachine machine) {
    await().atMost(Awaited.LIMIT).until(() -> machine.stats().get("standby") == 1);
  }

  private static void awaitCaughtUp(RemoteMachine machine) {
    await().atMost(Awaited.LIMIT).until(() -> machine.stats().get("standby.behind") == 0);
  }

  private void assertNothingIsLeft() {
    MockNodes.awaitNone();
    assertThat(states().all()).isEmpty();
  }

  private StateFiles states() {
    return new StateFiles(directory.resolve("states"));
  }
}
