// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.remora.client.RemoteMachine;
import java.nio.FloatBuffer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
@SuppressWarnings("try") // the scopes are opened only to be closed
final class GradientsTest {
  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    machine = RemoteMachine.open("mock");
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  /** The figures are those of torch.nn.utils.clip_grad_norm_ for the same gradients. */
  @ParameterizedTest
  @CsvSource({
    "2, 13.088640213012695, 0.229206383228302 -0.30560851097106934 0.114603191614151 0.019100531935691833 -0.916825532913208",
    "1, 20.75, 0.14457829296588898 -0.1927710622549057 0.07228914648294449 0.012048191390931606 -0.5783131718635559",
    "Infinity, 12.0, 0.2499999850988388 -0.3333333134651184 0.1249999925494194 0.0208333320915699 -0.9999999403953552"
  })
  void limitsTheNormAsPyTorchDoes(double normType, float norm, String clipped) {
    for (Device device : new Device[] {new Device("cpu"), machine.device()}) {
      try (PointerScope scope = new PointerScope()) {
        TensorVector parameters = parameters(device);

        Tensor before = Gradients.clip_grad_norm_(parameters, 1, normType);

        assertThat(before.item_float()).isCloseTo(norm, within(1e-6f * norm));
        String[] expected = clipped.split(" ", -1);
        float[] values = gradients(parameters);
        for (int i = 0; i < values.length; i++) {
          assertThat(values[i]).isCloseTo(Float.parseFloat(expected[i]), within(1e-7f));
        }
      }
    }
  }

  @Test
  void leavesSmallGradientsAlone() {
    try (PointerScope scope = new PointerScope()) {
      TensorVector parameters = parameters(machine.device());
      Gradients.clip_grad_norm_(parameters, 100);
      assertThat(gradients(parameters)).containsExactly(3, -4, 1.5f, 0.25f, -12);
    }
  }

  @Test
  void limitsValues() {
    try (PointerScope scope = new PointerScope()) {
      TensorVector parameters = parameters(machine.device());
      Gradients.clip_grad_value_(parameters, 2);
      assertThat(gradients(parameters)).containsExactly(2, -2, 1.5f, 0.25f, -2);
      assertThatThrownBy(() -> Gradients.clip_grad_value_(parameters, -1))
          .hasMessage("clipValue must not be negative, but is -1.0");
    }
  }

  @Test
  void doesNotWait() {
    try (PointerScope scope = new PointerScope()) {
      TensorVector parameters = parameters(machine.device());
      machine.synchronize();
      long waits = machine.statistics().blockingReads();

      for (int i = 0; i < 20; i++) {
        Gradients.clip_grad_norm_(parameters, 1).close();
        Gradients.clip_grad_value_(parameters, 1);
      }

      assertThat(machine.statistics().blockingReads()).isEqualTo(waits);
    }
  }

  @Test
  void ignoresParametersWithoutGradients() {
    try (PointerScope scope = new PointerScope()) {
      TensorVector parameters =
          new TensorVector(Tensor.create(1f).to(machine.device(), ScalarType.Float));
      assertThat(Gradients.clip_grad_norm_(parameters, 1).item_float()).isZero();
      Gradients.clip_grad_value_(parameters, 1);
    }
  }

  @Test
  void operatorsAreCalledWithAllTheirArgumentsOrNotAtAll() {
    assertThat(Operators.count("f(Tensor[] self, *, int[2] x=[0, 1]) -> (Tensor, Tensor)"))
        .isEqualTo(2);
    assertThat(Operators.count("f() -> ()")).isZero();
    assertThatThrownBy(() -> Operators.call("aten::_foreach_mul_", "Scalar", new TensorVector()))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("aten::_foreach_mul_.Scalar has 2 arguments, not 1");
    assertThatThrownBy(() -> Operators.call("aten::abs", "", "text"))
        .hasMessageStartingWith("An argument is a java.lang.String, but must be");
  }

  private static TensorVector parameters(Device device) {
    Tensor one = parameter(device, 3, -4);
    Tensor two = parameter(device, 1.5f, 0.25f, -12);
    Tensor without = Tensor.create(1f).to(device, ScalarType.Float);
    return new TensorVector(one, without, two);
  }

  private static Tensor parameter(Device device, float... gradient) {
    Tensor parameter = Tensor.create(new float[gradient.length]).to(device, ScalarType.Float);
    parameter.set_requires_grad(true);
    parameter.mutable_grad().put(Tensor.create(gradient).to(device, ScalarType.Float));
    return parameter;
  }

  private static float[] gradients(TensorVector parameters) {
    float[] values = new float[5];
    FloatBuffer all = FloatBuffer.wrap(values);
    for (Tensor parameter : parameters.get()) {
      if (parameter.grad().defined()) {
        FloatBuffer some = parameter.grad().cpu().createBuffer();
        all.put(some);
      }
    }
    return values;
  }
}
