// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.bytedeco.pytorch.global.torch.zeros;

import io.remora.client.RemoteMachine;
import io.remora.client.TensorScope;
import org.bytedeco.pytorch.Tensor;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
@SuppressWarnings("try") // the scopes are opened only to be closed
final class MetricsTest {
  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    machine = RemoteMachine.open("mock");
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  @Test
  void aMeanIsReadOnlyWhenItIsAskedFor() {
    try (RunningMean mean = new RunningMean();
        TensorScope scope = TensorScope.open()) {
      assertThat(mean.value()).isNaN();
      machine.synchronize();
      long waits = machine.statistics().blockingReads();

      for (int i = 1; i <= 4; i++) {
        try (TensorScope step = TensorScope.open()) {
          mean.update(remote(Tensor.create((float) i)), i);
        }
      }

      assertThat(machine.statistics().blockingReads()).isEqualTo(waits);
      assertThat(mean.value()).isEqualTo((1 + 4 + 9 + 16) / 10.0);
      assertThat(machine.statistics().blockingReads()).isEqualTo(waits + 1);
      mean.reset();
      mean.update(remote(Tensor.create(7f)));
      assertThat(mean.value()).isEqualTo(7);
    }
  }

  @Test
  void manyValuesDoNotLoseDigits() {
    try (RunningMean mean = new RunningMean();
        TensorScope scope = TensorScope.open()) {
      Tensor value = remote(Tensor.create(0.1f));
      for (int i = 0; i < 2000; i++) {
        mean.update(value);
      }
      assertThat(mean.value()).isCloseTo(0.1f, within(1e-12));
    }
  }

  @Test
  void countsWhatIsRight() {
    try (Accuracy accuracy = new Accuracy();
        TensorScope scope = TensorScope.open()) {
      assertThat(accuracy.value()).isNaN();
      Tensor scores = remote(Tensor.create(new float[] {1, 2, 5, 3, 0, 9}, 3, 2));
      accuracy.update(scores, remote(Tensor.create(1L, 0L, 0L)));
      accuracy.update(scores.narrow(0, 0, 1), remote(Tensor.create(new long[] {0L})));

      assertThat(accuracy.value()).isEqualTo(0.5);
      assertThatThrownBy(() -> accuracy.update(scores, remote(Tensor.create(1L, 0L))))
          .hasMessage(
              "Scores must be [samples, classes] and labels [samples], but they are [3, 2] and [2]");
    }
  }

  @Test
  void leaveNothingOnTheMachine() {
    machine.synchronize();
    double storages = machine.stats().get("storages");
    RunningMean mean = new RunningMean();
    try (TensorScope scope = TensorScope.open()) {
      mean.update(remote(zeros(1)));
    }
    mean.close();
    machine.synchronize();
    assertThat(machine.stats().get("storages")).isEqualTo(storages);
  }

  private static Tensor remote(Tensor tensor) {
    return tensor.to(machine.device(), tensor.scalar_type());
  }
}
