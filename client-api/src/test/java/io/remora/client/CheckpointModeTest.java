// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.cross_entropy_loss;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.rand_like;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.relu;

import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import io.remora.runtime.MachineTrace;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RestoredException;
import io.remora.runtime.StaleReferenceException;
import io.remora.runtime.WaitCause;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.DropoutImpl;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.SGD;
import org.bytedeco.pytorch.SGDOptions;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * {@code remora.recovery.mode = checkpoint}: another node restores the last step that the program
 * has marked, and the program continues from there.
 */
@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class CheckpointModeTest {

  private static final int STEPS = 12;

  @TempDir private Path directory;

  @BeforeEach
  void awaitTheEndsOfEarlierNodes() {
    MockNodes.awaitNone();
  }

  private final List<Long> told = new CopyOnWriteArrayList<>();

  @Test
  @Tag("fast")
  void aTrainingContinuesBehindTheStepThatWasRestored() {
    try (RemoteMachine machine = open(machines())) {
      List<Float> undisturbed = losses(machine, step -> {}, new ArrayList<>());
      List<Long> caught = new ArrayList<>();

      List<Float> disturbed =
          losses(
              machine,
              step -> {
                if (step == 4 || step == 9) {
                  awaitCheckpointOf(machine, step - 1);
                }
                if (step == 6 || step == 9) {
                  MockNodes.kill(MockNodes.any());
                }
              },
              caught);

      assertThat(disturbed).isEqualTo(undisturbed);
      assertThat(caught).hasSize(2);
      assertThat(caught.get(0)).isBetween(3L, 5L);
      assertThat(caught.get(1)).isEqualTo(8);
      await().atMost(Awaited.LIMIT).untilAsserted(() -> assertThat(told).isEqualTo(caught));
      Awaited.figure(machine, "recoveries", 2.0);
      assertThat(machine.stats()).containsEntry("recovery.log.bytes", 0.0);
    }
    assertThat(new StateFiles(directory.resolve("states")).all()).isEmpty();
  }

  @Test
  @Tag("fast")
  void tensorsHaveTheirValuesOfThenAndThoseMadeSinceAreGone() {
    try (RemoteMachine machine = open(machines())) {
      machine.manualSeed(7);
      Tensor kept = ones(100).to(machine.device(), ScalarType.Float);
      Tensor dropped = ones(50).to(machine.device(), ScalarType.Float);
      Tensor drawn = rand_like(kept).cpu();
      awaitCheckpointOf(machine, -3);
      Tensor drawnNext = rand_like(kept).cpu();
      kept.add_(new Scalar(5));
      Tensor since = kept.mul(new Scalar(2));
      dropped.close();
      assertThat(since.sum().item_float()).isEqualTo(1200f);

      MockNodes.kill(MockNodes.any());

      RestoredException restored =
          catchThrowableOfType(RestoredException.class, () -> since.sum().item_float());
      assertThat(restored.step()).isEqualTo(-3);
      assertThat(restored).hasMessageContaining("since its node was lost");
      Duration recovering = machine.statistics().waited().get(WaitCause.RECOVERING);
      assertThat(kept.sum().item_float()).isEqualTo(100f);
      assertThat(machine.statistics().waited()).containsEntry(WaitCause.RECOVERING, recovering);
      assertThatThrownBy(() -> since.sum().item_float())
          .isInstanceOf(StaleReferenceException.class)
          .hasMessageContaining("made after the step")
          .hasMessageContaining("restored to step -3");
      assertThat(rand_like(kept).cpu().equal(drawnNext)).isTrue();
      assertThat(drawnNext.equal(drawn)).isFalse();
      // A tensor that is gone can get new values.
      since.copy_(kept);
      assertThat(since.sum().item_float()).isEqualTo(100f);
      machine.synchronize();
    }
  }

  @Test
  @Tag("fast")
  void theNextUseFailsOnceAndLaterWorkCounts() throws Exception {
    try (RemoteMachine machine = open(machines())) {
      Tensor x = ones(10).to(machine.device(), ScalarType.Float);
      awaitCheckpointOf(machine, 1);
      AtomicReference<RuntimeException> thrown = new AtomicReference<>();
      Thread unaware =
          new Thread(
              () -> {
                try {
                  while (!Thread.interrupted()) {
                    x.add_(new Scalar(1));
                  }
                } catch (RuntimeException e) {
                  thrown.set(e);
                }
              });
      unaware.start();
      MockNodes.kill(MockNodes.any());
      unaware.join(TimeUnit.SECONDS.toMillis(60));
      assertThat(unaware.isAlive()).isFalse();
      assertThat(thrown.get()).isInstanceOf(RestoredException.class);
      await().atMost(Awaited.LIMIT).untilAsserted(() -> assertThat(told).containsExactly(1L));

      assertThat(x.sum().item_float()).isEqualTo(10f);
      // The same machine recovers again, from the same checkpoint, with work that nobody reads.
      x.add_(new Scalar(1));
      machine.synchronize();
      MockNodes.kill(MockNodes.any());
      await().atMost(Awaited.LIMIT).until(() -> told.size() == 2);
      assertThatThrownBy(() -> x.add_(new Scalar(1))).isInstanceOf(RestoredException.class);
      x.add_(new Scalar(1));
      assertThat(x.sum().item_float()).isEqualTo(20f);
    }
  }

  @Test
  @Tag("full")
  void withoutACheckpointTheMachineFails() {
    try (RemoteMachine machine = open(machines())) {
      Tensor x = ones(10).to(machine.device(), ScalarType.Float);
      assertThat(x.sum().item_float()).isEqualTo(10f);
      MockNodes.kill(MockNodes.any());
      assertThatThrownBy(() -> x.sum().item_float())
          .isInstanceOf(NodeLostException.class)
          .hasMessageContaining("no checkpoint yet");
    } catch (NodeLostException e) {
      assertThat(e).hasMessageContaining("no checkpoint yet");
    }
  }

  @Test
  @Tag("full")
  void aProgramBehindAGatewayContinuesToo() throws Exception {
    try (TestGateway gateway =
            TestGateway.start("remora.state.directory = \"" + directory.resolve("states") + "\"");
        RemoteMachine machine = open(machines().gateway(gateway.address(), null))) {
      List<Float> undisturbed = losses(machine, step -> {}, new ArrayList<>());
      List<Long> caught = new ArrayList<>();

      List<Float> disturbed = losses(machine, killedAtStep5(machine), caught);

      assertThat(disturbed).isEqualTo(undisturbed);
      assertThat(caught).containsExactly(4L);
      await().atMost(Awaited.LIMIT).untilAsserted(() -> assertThat(told).isEqualTo(caught));
    }
  }

  @Test
  @Tag("full")
  void aTraceHidesTheRestartFromNobody() throws Exception {
    Path file = directory.resolve("run.json");
    try (TestGateway gateway =
            TestGateway.start("remora.state.directory = \"" + directory.resolve("states") + "\"");
        RemoteMachine machine = open(machines().gateway(gateway.address(), null));
        MachineTrace trace = machine.trace(file)) {
      List<Float> undisturbed = losses(machine, step -> {}, new ArrayList<>());
      assertThat(losses(machine, killedAtStep5(machine), new ArrayList<>())).isEqualTo(undisturbed);
    }
    assertThat(Files.readString(file))
        .contains("\"name\":\"recovering\"")
        .contains("gateway of machine");
  }

  private static AtStep killedAtStep5(RemoteMachine machine) {
    return step -> {
      if (step == 5) {
        awaitCheckpointOf(machine, 4);
        MockNodes.kill(MockNodes.any());
      }
    };
  }

  private RemoteMachine.Builder machines() {
    return RemoteMachine.builder()
        .provider("mock")
        .onRestored(told::add)
        .config(
            ConfigFactory.parseString(
                    "remora.recovery { mode = checkpoint, checkpoint-interval = 100 ms, retry = 100"
                        + " ms }")
                .withValue(
                    "remora.state.directory",
                    ConfigValueFactory.fromAnyRef(directory.resolve("states").toString())));
  }

  private static RemoteMachine open(RemoteMachine.Builder builder) {
    return builder.open();
  }

  /** Marks a step until a checkpoint of it is complete. */
  private static void awaitCheckpointOf(RemoteMachine machine, long step) {
    double before = machine.stats().get("checkpoints");
    await()
        .atMost(Awaited.LIMIT)
        .until(
            () -> {
              machine.checkpoint(step);
              return machine.stats().get("checkpoints") >= before + 2;
            });
  }

  private interface AtStep {
    void run(int step);
  }

  /** Trains with momentum and dropout, and continues behind the step that was restored. */
  private static List<Float> losses(RemoteMachine machine, AtStep atStep, List<Long> caught) {
    Float[] losses = new Float[STEPS];
    try (PointerScope scope = new PointerScope()) {
      manual_seed(3);
      machine.manualSeed(4);
      LinearImpl first = new LinearImpl(32, 64);
      DropoutImpl dropout = new DropoutImpl(0.2);
      LinearImpl last = new LinearImpl(64, 4);
      TensorVector parameters = new TensorVector();
      for (Module module : List.of(first, dropout, last)) {
        module.to(machine.device(), false);
        TensorVector own = module.parameters();
        for (long i = 0; i < own.size(); i++) {
          parameters.push_back(own.get(i));
        }
      }
      SGDOptions options = new SGDOptions(0.05);
      options.momentum().put(0.9);
      SGD optimizer = new SGD(parameters, options);
      int disturbed = 0;
      for (int step = 0; step < STEPS; step++) {
        try (PointerScope each = new PointerScope()) {
          if (step >= disturbed) {
            disturbed = step + 1;
            atStep.run(step);
          }
          manual_seed(100 + step); // a step's data depends on its number only
          Tensor input = randn(16, 32).to(machine.device(), ScalarType.Float);
          Tensor labels = randint(4, new long[] {16}).to(machine.device(), ScalarType.Long);
          optimizer.zero_grad();
          Tensor loss =
              cross_entropy_loss(last.forward(dropout.forward(relu(first.forward(input)))), labels);
          loss.backward();
          optimizer.step();
          losses[step] = loss.item_float();
          machine.checkpoint(step);
        } catch (RestoredException e) {
          caught.add(e.step());
          step = (int) e.step();
        }
      }
    }
    return Arrays.asList(losses);
  }
}
