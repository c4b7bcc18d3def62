// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.bytedeco.pytorch.global.torch.zeros;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.remora.runtime.TorchLibrary;
import java.util.List;
import java.util.stream.Stream;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.OptimizerParamGroup;
import org.bytedeco.pytorch.OptimizerParamGroupVector;
import org.bytedeco.pytorch.SGD;
import org.bytedeco.pytorch.SGDOptions;
import org.bytedeco.pytorch.TensorVector;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

@Tag("fast")
@SuppressWarnings("try") // the scopes are opened only to be closed
final class LearningRateSchedulerTest {

  @BeforeAll
  static void load() {
    TorchLibrary.bytedeco();
  }

  /** What torch 2.10's schedulers give an optimizer with lr=0.1, from the first step on. */
  static Stream<Arguments> schedulersOfPyTorch() {
    return Stream.of(
        arguments(
            "ConstantLR(0.5, 4)",
            LearningRateScheduler.constantLR(0.1, 0.5, 4),
            new double[] {0.05, 0.05, 0.05, 0.05, 0.1, 0.1}),
        arguments(
            "StepLR(3, 0.1)",
            LearningRateScheduler.stepLR(0.1, 3, 0.1),
            new double[] {
              0.1,
              0.1,
              0.1,
              0.010000000000000002,
              0.010000000000000002,
              0.010000000000000002,
              0.0010000000000000002
            }),
        arguments(
            "ExponentialLR(0.9)",
            LearningRateScheduler.exponentialLR(0.1, 0.9),
            new double[] {
              0.1,
              0.09000000000000001,
              0.08100000000000002,
              0.07290000000000002,
              0.06561000000000002,
              0.05904900000000002,
              0.05314410000000002
            }),
        arguments(
            "CosineAnnealingLR(8, 0.01)",
            LearningRateScheduler.cosineAnnealingLR(0.1, 8, 0.01),
            new double[] {
              0.1,
              0.0965745789630079,
              0.08681980515339463,
              0.07222075445642905,
              0.055,
              0.03777924554357096,
              0.023180194846605363,
              0.013425421036992097,
              0.01,
              0.013425421036992097,
              0.02318019484660537,
              0.03777924554357097
            }),
        arguments(
            "LinearLR(0.25, 1.0, 5)",
            LearningRateScheduler.linearLR(0.1, 0.25, 1, 5),
            new double[] {0.025, 0.04000000000000001, 0.05500000000000001, 0.07, 0.085, 0.1, 0.1}),
        arguments(
            "OneCycleLR(0.1, 12)",
            LearningRateScheduler.oneCycleLR(0.1, 12),
            new double[] {
              0.0040000000000000036,
              0.0349789654219583,
              0.08792851591221287,
              0.09944154354509119,
              0.09330129698414118,
              0.0811745653949763,
              0.06473789976951033,
              0.046263710266697504,
              0.028306099820869922,
              0.01334775301888306,
              0.0034566987425395223,
              4e-07
            }),
        arguments(
            "OneCycleLR(0.1, 12, 0.25, 'linear', 10, 100, three_phase=True)",
            LearningRateScheduler.oneCycleLR(
                0.1,
                12,
                new LearningRateScheduler.OneCycle(
                    0.25, LearningRateScheduler.Annealing.LINEAR, 10, 100, true)),
            new double[] {
              0.01,
              0.05500000000000001,
              0.1,
              0.055,
              0.009999999999999995,
              0.008585714285714287,
              0.007171428571428572,
              0.005757142857142857,
              0.004342857142857143,
              0.002928571428571428,
              0.0015142857142857145,
              9.99999999999994e-05
            }),
        arguments(
            "get_cosine_schedule_with_warmup(4, 12)",
            LearningRateScheduler.cosineAnnealingLR(0.1, 8, 0).warmUp(4),
            new double[] {
              0.0,
              0.025,
              0.05,
              0.07500000000000001,
              0.1,
              0.09619397662556434,
              0.08535533905932738,
              0.0691341716182545,
              0.05,
              0.030865828381745515,
              0.014644660940672627,
              0.0038060233744356634,
              0.0
            }));
  }

  @ParameterizedTest(name = "{0}")
  @MethodSource("schedulersOfPyTorch")
  void hasTheValuesOfPyTorch(String title, LearningRateScheduler scheduler, double[] expected) {
    for (int step = 0; step < expected.length; step++) {
      assertThat(scheduler.at(step)).as("step %d", step).isCloseTo(expected[step], within(1e-15));
    }
  }

  @Test
  void setsTheRateOfEveryGroupOfAnOptimizer() {
    try (PointerScope scope = new PointerScope()) {
      SGD optimizer = new SGD(parameters(), new SGDOptions(1));
      optimizer.add_param_group(new OptimizerParamGroup(parameters(), new SGDOptions(2)));

      LearningRateScheduler.constant(0.25).apply(optimizer, 7);
      assertThat(rates(optimizer)).containsExactly(0.25, 0.25);

      LearningRateScheduler.apply(
          optimizer,
          List.of(LearningRateScheduler.constant(0.5), LearningRateScheduler.stepLR(1, 2, 0.1)),
          2);
      assertThat(rates(optimizer)).containsExactly(0.5, 0.1);

      assertThatThrownBy(
              () ->
                  LearningRateScheduler.apply(
                      optimizer, List.of(LearningRateScheduler.constant(1)), 0))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("The optimizer has 2 parameter groups, but there are 1 schedulers");
    }
  }

  @Test
  void refusesWhatPyTorchRefuses() {
    assertThatThrownBy(() -> LearningRateScheduler.oneCycleLR(1, 10).at(10))
        .hasMessage("Step 10 is after the last of oneCycleLR, which has 10 steps");
    assertThatThrownBy(() -> LearningRateScheduler.linearLR(1, 0, 1, 5))
        .hasMessage("startFactor must be above 0 to 1, but is 0.0");
    assertThatThrownBy(() -> LearningRateScheduler.constant(1).at(-1))
        .hasMessage("step must not be negative, but is -1");
  }

  private static double[] rates(SGD optimizer) {
    OptimizerParamGroupVector groups = optimizer.param_groups();
    return new double[] {groups.get(0).options().get_lr(), groups.get(1).options().get_lr()};
  }

  private static TensorVector parameters() {
    return new TensorVector(zeros(1));
  }
}
