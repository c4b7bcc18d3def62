// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import io.remora.actors.MachineState;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** A machine moves to another node, a process of its own, under a running program. */
@Timeout(value = 180, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class MigrateTest {

  @TempDir private Path directory;

  @Test
  @Tag("fast")
  void aMoveChangesNoValueAndEndsTheFormerNode() {
    try (RemoteMachine machine = open("")) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});
      ProcessHandle former = MockNodes.only();
      String address = machine.info().nodeAddress();

      List<Float> disturbed =
          SmallTraining.losses(
              machine,
              step -> {
                if (step == 3) {
                  machine.migrate();
                  assertThat(former.isAlive()).isFalse();
                }
              });

      assertThat(disturbed).isEqualTo(undisturbed);
      assertThat(machine.info().nodeAddress()).isNotEqualTo(address);
      assertThat(machine.stats()).containsEntry("moves", 1.0).containsEntry("pauses", 0.0);
      assertThat(machine.stats().get("move.seconds"))
          .isGreaterThanOrEqualTo(machine.stats().get("move.wait.seconds"));
      assertThat(machine.stats().get("move.wait.seconds")).isPositive();
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("fast")
  void aMachineThatCannotMoveContinuesOnItsNode() {
    try (RemoteMachine machine = open("")) {
      Tensor x = ones(1000).to(machine.device(), ScalarType.Float);
      ProcessHandle node = MockNodes.only();

      assertThatThrownBy(
              () ->
                  machine.migrate(
                      Migration.toAnotherNode()
                          .config(set("remora.provider.mock.java", "/no/such/java"))))
          .isInstanceOf(ProviderException.class)
          .hasMessageContaining("continues on its node")
          .hasMessageContaining("/no/such/java");
      assertThatThrownBy(() -> machine.migrate(Migration.to("nobody")))
          .isInstanceOf(ProviderException.class)
          .hasMessageContaining("nobody");
      assertThatThrownBy(() -> machine.migrate(Migration.toAnotherNode().gpuCount(2)))
          .isInstanceOf(ProviderException.class)
          .hasMessageContaining("had a node with devices");

      assertThat(x.add_(new Scalar(1f)).sum().item_float()).isEqualTo(2000f);
      assertThat(machine.state()).isEqualTo(MachineState.READY);
      assertThat(MockNodes.only()).isEqualTo(node);
      assertThat(machine.stats()).containsEntry("moves", 0.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("fast")
  void aMachineWhoseStateTheOtherNodeCannotReadGoesBack() {
    try (RemoteMachine machine = open("")) {
      Tensor x = ones(1000).to(machine.device(), ScalarType.Float);
      ProcessHandle node = MockNodes.only();
      machine.synchronize();

      assertThatThrownBy(
              () ->
                  machine.migrate(
                      Migration.toAnotherNode()
                          .config(
                              set(
                                  "remora.state.directory",
                                  directory.resolve("elsewhere").toString()))))
          .isInstanceOf(MachineStateException.class)
          .hasMessageContaining("continues on its node")
          .hasMessageContaining("elsewhere");

      assertThat(x.add_(new Scalar(1f)).sum().item_float()).isEqualTo(2000f);
      machine.migrate(); // to a node that can
      assertThat(x.sum().item_float()).isEqualTo(2000f);
      assertThat(node.isAlive()).isFalse();
      assertThat(machine.stats()).containsEntry("moves", 1.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("fast")
  void aNodeThatIsToldToEndIsLeftBeforeItEnds() {
    try (RemoteMachine machine =
        open(
            """
            remora.recovery.mode = replay
            remora.node.notice-grace = 10 minutes
            """)) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});
      ProcessHandle former = MockNodes.only();

      List<Float> disturbed =
          SmallTraining.losses(
              machine,
              step -> {
                if (step == 3) {
                  assertThat(former.destroy()).isTrue(); // SIGTERM
                } else if (step == 6) {
                  await().atMost(Awaited.LIMIT).until(() -> machine.stats().get("moves") == 1);
                }
              });

      assertThat(disturbed).isEqualTo(undisturbed);
      await().atMost(Awaited.LIMIT).until(() -> !former.isAlive());
      assertThat(machine.stats()).containsEntry("moves", 1.0).containsEntry("recoveries", 0.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void aNodeWhoseLifeTimeEndsIsLeftBefore() {
    try (RemoteMachine machine =
        open(
            """
            remora.recovery.mode = replay
            remora.node.life-time = 20 s
            """)) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});
      ProcessHandle former = MockNodes.only();
      await().atMost(Awaited.LIMIT).until(() -> machine.stats().get("moves") >= 1);

      assertThat(SmallTraining.losses(machine, step -> {})).isEqualTo(undisturbed);
      await().atMost(Awaited.LIMIT).until(() -> !former.isAlive());
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void aNodeThatEndsBeforeAnotherIsThereIsReplacedByOne() throws Exception {
    Path java =
        Files.createSymbolicLink(
            directory.resolve("java"), Path.of(System.getProperty("java.home"), "bin", "java"));
    try (RemoteMachine machine =
        open(
            """
            remora.recovery { mode = replay, retry = 200 ms }
            remora.node.notice-grace = 1 s
            remora.provider.mock.java = "%s"
            """
                .formatted(java))) {
      Tensor x = ones(1000).to(machine.device(), ScalarType.Float);
      machine.synchronize();
      ProcessHandle former = MockNodes.only();
      Path away = Files.move(java, directory.resolve("java-away"));

      former.destroy();
      MockNodes.awaitEnd(former);
      Files.move(away, java);

      assertThat(x.add_(new Scalar(1f)).sum().item_float()).isEqualTo(2000f);
      assertThat(machine.stats()).containsEntry("moves", 0.0).containsEntry("recoveries", 1.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void aNodeThatIsToldToEndDoesNotWaitForAMachineWithoutRecovery() {
    RemoteMachine machine = open("remora.node.notice-grace = 10 minutes");
    Tensor x = ones(8).to(machine.device(), ScalarType.Float);
    machine.synchronize();

    ProcessHandle node = MockNodes.only();
    assertThat(node.destroy()).isTrue(); // SIGTERM
    MockNodes.awaitEnd(node);

    assertThatThrownBy(() -> x.sum().item_float()).isInstanceOf(NodeLostException.class);
    assertThat(catchThrowable(machine::close)).isInstanceOf(NodeLostException.class);
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void movesAtAnyMomentChangeNoValue() {
    Random random = new Random(seed());
    try (RemoteMachine machine = open("remora.recovery.checkpoint-interval = 200 ms")) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});
      for (int round = 0; round < 5; round++) {
        CompletableFuture<Void> moved = later(random.nextInt(300), machine::migrate);
        List<Float> disturbed = SmallTraining.losses(machine, step -> {});
        while (!moved.isDone()) {
          assertThat(disturbed).as("round %d, seed %d", round, seed()).isEqualTo(undisturbed);
          disturbed = SmallTraining.losses(machine, step -> {});
        }
        moved.join();
        assertThat(disturbed).as("round %d, seed %d", round, seed()).isEqualTo(undisturbed);
      }
      assertThat(machine.stats()).containsEntry("moves", 5.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void aNodeThatIsKilledWhileItsMachineMovesChangesNoValue() {
    Random random = new Random(seed());
    try (RemoteMachine machine = open("remora.recovery.mode = replay")) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});
      for (int round = 0; round < 4; round++) {
        ProcessHandle former = MockNodes.only();
        CompletableFuture<Void> moved = later(0, machine::migrate);
        CompletableFuture<Void> killed = later(random.nextInt(2500), former::destroyForcibly);
        List<Float> disturbed = SmallTraining.losses(machine, step -> {});
        while (!moved.isDone()) {
          assertThat(disturbed).as("round %d, seed %d", round, seed()).isEqualTo(undisturbed);
          disturbed = SmallTraining.losses(machine, step -> {});
        }
        killed.join();
        assertThat(catchThrowable(moved::join)).as("round %d, seed %d", round, seed()).isNull();
        assertThat(disturbed).as("round %d, seed %d", round, seed()).isEqualTo(undisturbed);
      }
      assertThat(machine.stats().get("moves") + machine.stats().get("recoveries"))
          .isGreaterThanOrEqualTo(4.0);
    }
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void aMachineWithoutRecoveryIsLostWithTheNodeFromWhichItMoves() throws Exception {
    Path never = Files.writeString(directory.resolve("java"), "#!/bin/sh\nread line\n");
    assertThat(never.toFile().setExecutable(true)).isTrue();
    RemoteMachine machine = open("");
    Tensor x = ones(8).to(machine.device(), ScalarType.Float);
    machine.synchronize();
    ProcessHandle former = MockNodes.only();
    CompletableFuture<Void> moved =
        later(
            0,
            () ->
                machine.migrate(
                    Migration.toAnotherNode()
                        .config(set("remora.provider.mock.java", never.toString()))));
    await()
        .atMost(Awaited.LIMIT)
        .until(() -> machine.info().reason().contains("another node to move"));

    former.destroyForcibly();

    assertThat(catchThrowable(moved::join)).hasCauseInstanceOf(NodeLostException.class);
    assertThatThrownBy(() -> x.sum().item_float()).isInstanceOf(NodeLostException.class);
    assertThat(catchThrowable(machine::close)).isInstanceOf(NodeLostException.class);
    assertNothingIsLeft();
  }

  @Test
  @Tag("full")
  void aPausedMachineIsResumedAndMoves() {
    try (RemoteMachine machine = open("")) {
      Tensor x = ones(8).to(machine.device(), ScalarType.Float);
      machine.synchronize();
      machine.pause();

      machine.migrate();

      assertThat(machine.state()).isEqualTo(MachineState.READY);
      assertThat(x.sum().item_float()).isEqualTo(8f);
      assertThat(machine.stats()).containsEntry("moves", 1.0);
    }
    assertNothingIsLeft();
  }

  // Tools

  private static long seed() {
    return Long.getLong("remora.faults.seed", 20);
  }

  private static CompletableFuture<Void> later(int millis, Runnable action) {
    return CompletableFuture.runAsync(
        action,
        CompletableFuture.delayedExecutor(
            millis, TimeUnit.MILLISECONDS, Executors.newSingleThreadExecutor()));
  }

  private RemoteMachine open(String settings) {
    return states().machine(settings);
  }

  private static Config set(String path, String value) {
    return ConfigFactory.empty().withValue(path, ConfigValueFactory.fromAnyRef(value));
  }

  private void assertNothingIsLeft() {
    await()
        .atMost(Awaited.LIMIT)
        .untilAsserted(
            () -> assertThat(ProcessHandle.current().children()).as("node processes").isEmpty());
    await().atMost(Awaited.LIMIT).untilAsserted(() -> assertThat(states().all()).isEmpty());
  }

  private StateFiles states() {
    return new StateFiles(directory.resolve("states"));
  }
}
