// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.dropout;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.mse_loss;
import static org.bytedeco.pytorch.global.torch.rand;

import io.remora.client.RemoteMachine;
import io.remora.client.TensorScope;
import io.remora.runtime.TorchLibrary;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import org.bytedeco.pytorch.Adagrad;
import org.bytedeco.pytorch.AdagradOptions;
import org.bytedeco.pytorch.Adam;
import org.bytedeco.pytorch.AdamOptions;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.BatchNorm1dImpl;
import org.bytedeco.pytorch.BatchNormOptions;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Optimizer;
import org.bytedeco.pytorch.OutputArchive;
import org.bytedeco.pytorch.RMSprop;
import org.bytedeco.pytorch.RMSpropOptions;
import org.bytedeco.pytorch.SGD;
import org.bytedeco.pytorch.SGDOptions;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Each machine is a JVM of its own, and a training moves from the first to the second. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
@SuppressWarnings("try") // the scopes are opened only to be closed
final class CheckpointsTest {
  private static RemoteMachine first;
  private static RemoteMachine second;

  @TempDir private Path folder;

  @BeforeAll
  static void open() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    first = RemoteMachine.open("mock");
    second = RemoteMachine.open("mock");
  }

  @AfterAll
  static void close() {
    first.close();
    second.close();
  }

  private enum Kind {
    ADAM,
    ADAMW,
    SGD_WITH_MOMENTUM,
    RMSPROP,
    ADAGRAD;

    Optimizer create(TensorVector parameters) {
      return switch (this) {
        case ADAM -> new Adam(parameters, amsgrad());
        case ADAMW -> new AdamW(parameters, new AdamWOptions(0.01));
        case SGD_WITH_MOMENTUM -> new SGD(parameters, momentum());
        case RMSPROP -> new RMSprop(parameters, centered());
        case ADAGRAD -> new Adagrad(parameters, new AdagradOptions(0.01));
      };
    }

    private static AdamOptions amsgrad() {
      AdamOptions options = new AdamOptions(0.01);
      options.amsgrad().put(true);
      return options;
    }

    private static SGDOptions momentum() {
      SGDOptions options = new SGDOptions(0.01);
      options.momentum().put(0.9);
      options.dampening().put(0.1);
      return options;
    }

    private static RMSpropOptions centered() {
      RMSpropOptions options = new RMSpropOptions(0.01);
      options.centered().put(true);
      options.momentum().put(0.9);
      return options;
    }
  }

  private static final class Model extends Module {
    final LinearImpl in = new LinearImpl(6, 8);
    final BatchNorm1dImpl norm = new BatchNorm1dImpl(new BatchNormOptions(8));
    final LinearImpl out;

    Model(long outputs) {
      out = new LinearImpl(8, outputs);
      register_module("in", in);
      register_module("norm", norm);
      register_module("out", out);
    }

    Tensor forward(Tensor x) {
      return out.forward(dropout(norm.forward(in.forward(x)).relu(), 0.2, true));
    }
  }

  /** A training whose data and dropout come from the generators of the CPU and of the device. */
  private static final class Training {
    final Model model;
    final Optimizer optimizer;
    final Device device;
    final EarlyStopping stopping = new EarlyStopping(EarlyStopping.Mode.MIN, 3, 0);
    final LearningRateScheduler scheduler =
        LearningRateScheduler.cosineAnnealingLR(0.02, 10, 0).warmUp(3);
    final TrainingState state;

    Training(Kind kind, RemoteMachine machine, long seed) {
      this(kind, machine, seed, 2);
    }

    Training(Kind kind, RemoteMachine machine, long seed, long outputs) {
      device = machine.device();
      manual_seed(seed);
      model = new Model(outputs);
      model.to(device, false);
      optimizer = kind.create(model.parameters());
      state =
          new TrainingState()
              .machine(machine)
              .model(model)
              .optimizer(optimizer)
              .with("stopping", stopping);
    }

    float[] train(long from, long to) {
      float[] losses = new float[(int) (to - from)];
      for (long step = from; step < to; step++) {
        try (TensorScope scope = TensorScope.open()) {
          Tensor x = rand(16, 6).to(device, ScalarType.Float);
          scheduler.apply(optimizer, step);
          optimizer.zero_grad();
          Tensor loss = mse_loss(model.forward(x), x.narrow(1, 0, 2));
          loss.backward();
          Gradients.clip_grad_norm_(model.parameters(), 1);
          optimizer.step();
          losses[(int) (step - from)] = loss.item_float();
        }
      }
      return losses;
    }
  }

  @ParameterizedTest
  @EnumSource
  void aTrainingThatMovesToAnotherMachineHasTheSameLosses(Kind kind) {
    Checkpoints checkpoints = new Checkpoints(folder, 2);
    try (TensorScope scope = TensorScope.open()) {
      Training before = new Training(kind, first, 1);
      before.train(0, 3);
      before.stopping.stop(0.5);
      checkpoints.save(before.state, 3);
      float[] expected = before.train(3, 8);

      Training after = new Training(kind, second, 99);
      long step = checkpoints.restoreLatest(after.state).orElseThrow();
      assertThat(step).isEqualTo(3);
      assertThat(after.stopping.best()).isEqualTo(0.5);
      assertThat(bits(after.train(3, 8))).isEqualTo(bits(expected));
    }
  }

  @Test
  void savingWaitsOncePerGeneratorAndRestoringNotAtAll() {
    try (TensorScope scope = TensorScope.open()) {
      Training training = new Training(Kind.ADAM, first, 1);
      training.train(0, 2);
      try (OutputArchive archive = new OutputArchive()) {
        assertThat(Archive.canRead(archive)).isTrue();
      }
      long waits = first.statistics().blockingReads();

      Path file = new Checkpoints(folder, 1).save(training.state, 2);

      assertThat(first.statistics().blockingReads() - waits).isLessThanOrEqualTo(2);
      Training other = new Training(Kind.ADAM, second, 2);
      second.synchronize();
      waits = second.statistics().blockingReads();
      Checkpoints.restore(other.state, file);
      assertThat(second.statistics().blockingReads()).isEqualTo(waits);
    }
  }

  @Test
  void theNewestCheckpointsStay() throws IOException {
    Checkpoints checkpoints = new Checkpoints(folder.resolve("new"), 2);
    try (TensorScope scope = TensorScope.open()) {
      Training training = new Training(Kind.ADAMW, first, 1);
      assertThat(checkpoints.restoreLatest(training.state)).isEmpty();
      for (long step : new long[] {5, 100, 20, 100}) {
        checkpoints.save(training.state, step);
      }
      assertThat(checkpoints.files())
          .extracting(file -> file.getFileName().toString())
          .containsExactly("checkpoint-000000000020.pt", "checkpoint-000000000100.pt");
      assertThat(folder.resolve("new")).isDirectoryNotContaining("glob:**.part");
    }
  }

  @Test
  void namesEverythingThatDiffersAndChangesNothing() {
    try (TensorScope scope = TensorScope.open()) {
      Training saved = new Training(Kind.ADAM, first, 1);
      saved.train(0, 1);
      Path file = new Checkpoints(folder, 1).save(saved.state, 1);

      Training wider = new Training(Kind.ADAM, second, 2, 3);
      float[] weights = weights(wider);
      assertThatThrownBy(() -> Checkpoints.restore(wider.state, file))
          .isInstanceOf(CheckpointException.class)
          .hasMessageContaining(file.toString())
          .hasMessageContaining(
              "model tensor out.weight is Float [2, 8] in the checkpoint, but Float [3, 8] here")
          .hasMessageContaining(
              "optimizer has a exp_avg of Float [2, 8] for parameter 4 of group 0");
      assertThat(weights(wider)).isEqualTo(weights);

      Training other = new Training(Kind.ADAGRAD, second, 2);
      assertThatThrownBy(() -> Checkpoints.restore(other.state, file))
          .hasMessageContaining("optimizer is Adam in the checkpoint, but Adagrad here");
      assertThatThrownBy(
              () -> Checkpoints.restore(new TrainingState().model("critic", other.model), file))
          .hasMessageContaining("model critic is not in the checkpoint")
          .hasMessageContaining("model model is only in the checkpoint")
          .hasMessageContaining("random generator machine 0 device 0 is only in the checkpoint")
          .hasMessageContaining("numbers stopping is only in the checkpoint");
    }
  }

  @Test
  void refusesAnOptimizerWhoseStateTheCheckpointCannotReplace() {
    try (TensorScope scope = TensorScope.open()) {
      Training fresh = new Training(Kind.ADAM, first, 1);
      Path file = new Checkpoints(folder, 1).save(fresh.state, 0);
      fresh.train(0, 1);
      assertThatThrownBy(() -> Checkpoints.restore(fresh.state, file))
          .hasMessageContaining(
              "optimizer has a state for parameter 0 of group 0, but the checkpoint has none");
    }
  }

  @Test
  void refusesDamagedFiles() throws IOException {
    try (TensorScope scope = TensorScope.open()) {
      Training training = new Training(Kind.ADAM, first, 1);
      training.train(0, 1);
      Path file = new Checkpoints(folder, 1).save(training.state, 1);
      byte[] whole = Files.readAllBytes(file);

      for (int at : new int[] {whole.length / 4, whole.length / 2}) {
        Files.write(file, whole);
        flip(file, at, whole[at]);
        assertThatThrownBy(() -> Checkpoints.restore(training.state, file))
            .isInstanceOf(CheckpointException.class)
            .hasMessageContaining(file.toString())
            .hasMessageContaining("damaged");
      }
      Files.write(file, Arrays.copyOf(whole, whole.length / 2));
      assertThatThrownBy(() -> Checkpoints.restore(training.state, file))
          .isInstanceOf(CheckpointException.class)
          .hasMessageContaining("damaged or incomplete");
      Files.delete(file);
      assertThatThrownBy(() -> Checkpoints.restore(training.state, file))
          .hasMessage("There is no checkpoint " + file);
    }
  }

  @Test
  void aFolderThatCannotBeWrittenIsNamed() throws IOException {
    Path blocked = Files.createFile(folder.resolve("file"));
    assertThatThrownBy(() -> new Checkpoints(blocked, 1).save(new TrainingState(), 1))
        .isInstanceOf(CheckpointException.class)
        .hasMessageContaining(blocked.toString());
  }

  private static void flip(Path file, int at, byte value) throws IOException {
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
      channel.write(ByteBuffer.wrap(new byte[] {(byte) ~value}), at);
    }
  }

  private static float[] weights(Training training) {
    try (TensorScope scope = TensorScope.open()) {
      float[] weights = new float[48];
      training.model.in.weight().detach().cpu().data_ptr_float().get(weights);
      return weights;
    }
  }

  private static int[] bits(float[] values) {
    int[] bits = new int[values.length];
    for (int i = 0; i < bits.length; i++) {
      bits[i] = Float.floatToRawIntBits(values[i]);
    }
    return bits;
  }
}
