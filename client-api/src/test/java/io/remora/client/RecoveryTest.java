// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.nonzero;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.relu;

import io.remora.runtime.NodeLostException;
import io.remora.runtime.WaitCause;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** A machine with recovery gets another node after its node was killed, with the same values. */
@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class RecoveryTest {

  @TempDir private Path directory;

  @BeforeEach
  void awaitTheEndsOfEarlierNodes() {
    MockNodes.awaitNone();
  }

  @Test
  @Tag("fast")
  void aNodeThatIsKilledChangesNoValue() {
    try (RemoteMachine machine = open("checkpoint-interval = 1 h")) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});

      List<Float> disturbed =
          SmallTraining.losses(
              machine,
              step -> {
                if (step == 2 || step == 7) {
                  killNode();
                }
              });

      assertThat(disturbed).isEqualTo(undisturbed);
      Awaited.figure(machine, "recoveries", 2.0);
      assertThat(machine.waits())
          .anySatisfy(
              wait -> {
                assertThat(wait.cause()).isEqualTo(WaitCause.RECOVERING);
                assertThat(wait.line()).contains("SmallTraining.java:");
              });
      assertThat(machine.stats()).containsEntry("checkpoints", 0.0);
    }
    assertThat(states().all()).isEmpty();
  }

  @Test
  @Tag("fast")
  void theBatchesAfterTheLastCheckpointAreExecutedAgain() {
    try (RemoteMachine machine = open("checkpoint-interval = 100 ms")) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});

      List<Float> disturbed =
          SmallTraining.losses(
              machine,
              step -> {
                if (step == 3 || step == 8) {
                  awaitCheckpoint(machine);
                }
                if (step == 4 || step == 10) {
                  killNode();
                }
              });

      assertThat(disturbed).isEqualTo(undisturbed);
      Awaited.figure(machine, "recoveries", 2.0);
      assertThat(machine.waits())
          .anySatisfy(
              wait -> {
                assertThat(wait.cause()).isEqualTo(WaitCause.RECOVERING);
                assertThat(wait.line()).contains("SmallTraining.java:");
              });
      await()
          .atMost(Awaited.LIMIT)
          .untilAsserted(
              () ->
                  assertThat(states().all())
                      .as("two checkpoints, each with a manifest; others are deleted")
                      .hasSizeLessThanOrEqualTo(4));
    }
    assertThat(states().all()).isEmpty();
  }

  @Test
  @Tag("full")
  void killsAtAnyMomentChangeNoValue() {
    long seed = Long.getLong("remora.faults.seed", System.nanoTime());
    Random random = new Random(seed);
    try (RemoteMachine machine = open("checkpoint-interval = 300 ms, retry = 200 ms")) {
      List<Float> undisturbed = SmallTraining.losses(machine, step -> {});
      for (int round = 0; round < 8; round++) {
        ProcessHandle victim = MockNodes.any();
        int delay = random.nextInt(600);
        Thread killer =
            new Thread(
                () -> {
                  try {
                    Thread.sleep(delay);
                  } catch (InterruptedException e) {
                    return;
                  }
                  victim.destroyForcibly();
                });
        killer.start();
        assertThat(SmallTraining.losses(machine, step -> {}))
            .as("round %d, killed after %d ms, seed %d", round, delay, seed)
            .isEqualTo(undisturbed);
        await().atMost(Awaited.LIMIT).until(() -> !killer.isAlive());
      }
      // Some kills hit a node that was still recovering, which then is one recovery with another.
      assertThat(machine.stats().get("recoveries")).isPositive();
    }
    assertThat(states().all()).isEmpty();
  }

  @Test
  @Tag("full")
  void aDamagedCheckpointIsReplacedByTheOneBefore() {
    try (RemoteMachine machine = open("checkpoint-interval = 100 ms")) {
      Tensor x = ones(1000).to(machine.device(), ScalarType.Float);
      for (int made = 0; made < 2; made++) {
        x.add_(new Scalar(1f));
        awaitCheckpoint(machine);
      }
      x.add_(new Scalar(1f));
      assertThat(x.sum().item_float()).isEqualTo(4000f);

      StateFiles.damage(states().newestState().orElseThrow());
      killNode();

      assertThat(x.sum().item_float()).isEqualTo(4000f);
      Awaited.figure(machine, "recoveries", 1.0);
    }
  }

  @Test
  @Tag("full")
  void aCheckpointWritesOnlyWhatHasChanged() {
    List<Float> undisturbed = new ArrayList<>();
    try (RemoteMachine machine = open("")) {
      Adapter adapter = new Adapter(machine);
      for (int step = 0; step < 9; step++) {
        undisturbed.add(adapter.step());
      }
    }
    try (RemoteMachine machine = open("checkpoint-interval = 100 ms")) {
      Adapter adapter = new Adapter(machine);
      List<Float> disturbed = new ArrayList<>();
      for (int step = 0; step < 9; step++) {
        if (step % 3 == 2) {
          awaitSharing(machine);
          assertThat(machine.stats().get("checkpoint.bytes")).isLessThan(Adapter.BYTES / 8);
          killNode();
        }
        disturbed.add(adapter.step());
      }

      assertThat(disturbed).isEqualTo(undisturbed);
      Awaited.figure(machine, "recoveries", 3.0);
      assertThat(machine.stats().get("checkpoints")).isGreaterThanOrEqualTo(4);
      await()
          .atMost(Awaited.LIMIT)
          .untilAsserted(
              () ->
                  assertThat(
                          states().all().stream().mapToLong(file -> file.toFile().length()).sum())
                      .as("the frozen part is there once")
                      .isLessThan(2L * Adapter.BYTES));
    }
    assertThat(states().all()).isEmpty();
  }

  @Test
  @Tag("full")
  void damageThatAllCheckpointsShareLosesTheSessionWithTheReason() {
    RemoteMachine machine = open("checkpoint-interval = 100 ms");
    Adapter adapter = new Adapter(machine);
    adapter.step();
    awaitSharing(machine);
    awaitSharing(machine);
    StateFiles.damage(
        states().all().stream()
            .filter(file -> file.toFile().length() > Adapter.BYTES)
            .findFirst()
            .orElseThrow());
    killNode();

    assertThatThrownBy(adapter::step)
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("no checkpoint of it can be read")
        .hasMessageContaining("is damaged")
        .hasMessageContaining("which both share");
    assertThat(catchThrowable(machine::close)).isInstanceOf(NodeLostException.class);
    assertThat(states().all()).isEmpty();
  }

  @Test
  @Tag("full")
  void whatTheProgramHasSeenIsComparedAndNotToldAgain() {
    try (RemoteMachine machine = open("")) {
      Tensor x = randn(500).to(machine.device(), ScalarType.Float);
      long found = nonzero(relu(x)).size(0); // its shape is asked from the node
      Tensor large = ones(3_000_000).to(machine.device(), ScalarType.Float);
      Tensor copy = large.cpu(); // travels in chunks
      assertThat(found).isPositive();
      assertThat(copy.sum().item_float()).isEqualTo(3_000_000f);

      killNode();

      assertThat(nonzero(relu(x)).size(0)).isEqualTo(found);
      assertThat(large.sum().item_float()).isEqualTo(3_000_000f);
      Awaited.figure(machine, "recoveries", 1.0);
    }
  }

  @Test
  @Tag("full")
  void aFullLogMakesTheProgramWaitForACheckpoint() {
    try (RemoteMachine machine =
        open("checkpoint-bytes = 1 MiB, log-bytes = 4 MiB, checkpoint-interval = 1 h")) {
      Tensor sum = ones(250_000).to(machine.device(), ScalarType.Float);
      for (int i = 0; i < 20; i++) {
        sum.add_(ones(250_000).to(machine.device(), ScalarType.Float));
        machine.synchronize(); // only what the node has executed is in the log
        assertThat(machine.stats().get("recovery.log.bytes")).isLessThan(8 << 20);
      }
      killNode();

      assertThat(sum.sum().item_float()).isEqualTo(21 * 250_000f);
      assertThat(machine.stats().get("checkpoints")).isGreaterThanOrEqualTo(2.0);
    }
    assertThat(states().all()).isEmpty();
  }

  @Test
  @Tag("full")
  void batchesOnDiskAreExecutedAgain() {
    Path log = directory.resolve("log");
    try (RemoteMachine machine =
        open(
            "checkpoint-bytes = 60 MiB, log-bytes = 1 MiB, log-disk-bytes = 64 MiB, checkpoint-interval = 1 h, log-directory = \"%s\""
                .formatted(log))) {
      Tensor sum = ones(250_000).to(machine.device(), ScalarType.Float);
      for (int i = 0; i < 20; i++) {
        sum.add_(ones(250_000).to(machine.device(), ScalarType.Float));
      }
      machine.synchronize();
      await()
          .atMost(Awaited.LIMIT)
          .untilAsserted(
              () ->
                  assertThat(machine.stats().get("recovery.log.disk.bytes"))
                      .isGreaterThan(15 << 20));
      assertThat(log).isEmptyDirectory();
      killNode();

      assertThat(sum.sum().item_float()).isEqualTo(21 * 250_000f);
      assertThat(machine.stats()).containsEntry("checkpoints", 0.0);
      Awaited.figure(machine, "recoveries", 1.0);
    }
  }

  @Test
  @Tag("full")
  void aMachineWithoutAnotherNodeFailsAfterATime() throws IOException {
    Path java =
        Files.createSymbolicLink(
            directory.resolve("java"), Path.of(System.getProperty("java.home"), "bin", "java"));
    RemoteMachine machine =
        open("give-up-after = 1 s, retry = 200 ms", "remora.provider.mock.java = \"" + java + "\"");
    Tensor x = ones(8).to(machine.device(), ScalarType.Float);
    machine.synchronize();
    Files.delete(java);

    killNode();

    assertThatThrownBy(() -> x.sum().item_float())
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("lost its node")
        .hasMessageContaining("was not recovered within 1000 ms")
        .hasMessageContaining(java.toString());
    assertThat(catchThrowable(machine::close)).isInstanceOf(NodeLostException.class);
  }

  // Tools

  /** A small part is trained on top of a frozen one of 8 MiB. */
  private static final class Adapter {

    static final int BYTES = 8 << 20;

    private final Tensor frozen;
    private final Tensor trained;

    Adapter(RemoteMachine machine) {
      manual_seed(5);
      frozen = randn(2048, 1024).to(machine.device(), ScalarType.Float);
      trained = randn(1024, 8).to(machine.device(), ScalarType.Float);
    }

    float step() {
      try (PointerScope scope = new PointerScope()) {
        Tensor out = frozen.matmul(trained);
        trained.sub_(frozen.t().matmul(out), new Scalar(1e-5f));
        return out.pow(new Scalar(2)).mean().item_float();
      }
    }
  }

  /** Works until one more checkpoint shares the frozen part with an earlier one. */
  private static void awaitSharing(RemoteMachine machine) {
    double before = machine.stats().get("checkpoints");
    await()
        .atMost(Awaited.LIMIT)
        .until(
            () -> {
              work(machine);
              return machine.stats().get("checkpoints") > before
                  && machine.stats().get("checkpoint.reused.bytes") >= Adapter.BYTES;
            });
  }

  private RemoteMachine open(String recovery) {
    return open(recovery, "");
  }

  private RemoteMachine open(String recovery, String more) {
    return states().machine("remora.recovery { mode = replay, " + recovery + " }\n" + more);
  }

  /** Works until there is one more checkpoint. */
  private static void awaitCheckpoint(RemoteMachine machine) {
    double before = machine.stats().get("checkpoints");
    await()
        .atMost(Awaited.LIMIT)
        .until(
            () -> {
              work(machine);
              return machine.stats().get("checkpoints") > before;
            });
  }

  /** Without work after a checkpoint there is no other. */
  private static void work(RemoteMachine machine) {
    try (Tensor work = ones(1).to(machine.device(), ScalarType.Float)) {
      machine.synchronize();
    }
  }

  private static void killNode() {
    ProcessHandle node = MockNodes.any();
    assertThat(node.destroyForcibly()).isTrue();
    node.onExit().join();
  }

  private StateFiles states() {
    return new StateFiles(directory.resolve("states"));
  }
}
