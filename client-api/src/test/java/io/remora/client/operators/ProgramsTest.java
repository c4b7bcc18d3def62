// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.embedding_bag;
import static org.bytedeco.pytorch.global.torch.fft_fft;
import static org.bytedeco.pytorch.global.torch.grad;
import static org.bytedeco.pytorch.global.torch.mse_loss;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.where;

import io.remora.client.RemoteMachine;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RemoteEvent;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;
import java.util.stream.Collectors;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.BoolOptional;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.EmbeddingBagFuncOptions;
import org.bytedeco.pytorch.Generator;
import org.bytedeco.pytorch.InferenceMode;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorBase;
import org.bytedeco.pytorch.TensorIndex;
import org.bytedeco.pytorch.TensorIndexVector;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.VoidTensorHook;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.DeviceType;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * Programs of more than single operators give the same results on a remote device as on the CPU.
 */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ProgramsTest {

  private static BothDevices both;

  @BeforeAll
  static void open() {
    both = new BothDevices();
  }

  @AfterAll
  static void close() {
    both.close();
  }

  private static Tensor on(Device device, Tensor tensor) {
    return tensor.to(device, tensor.scalar_type().intern());
  }

  private static Tensor parameter(Device device, long... sizes) {
    return on(device, randn(sizes)).requires_grad_(true);
  }

  @Test
  void valuesDecideWhereAProgramGoes() {
    both.assertSame(
        device -> {
          Tensor numbers = on(device, arange(new Scalar(1), new Scalar(20)));
          Tensor steps = numbers.mul(new Scalar(0));
          while (numbers.ne(new Scalar(1)).any().item_bool()) {
            Tensor going = numbers.ne(new Scalar(1));
            Tensor odd = numbers.remainder(new Scalar(2)).eq(new Scalar(1));
            Tensor next =
                where(
                    odd,
                    numbers.mul(new Scalar(3)).add(new Scalar(1)),
                    numbers.floor_divide(new Scalar(2)));
            numbers = where(going, next, numbers);
            steps = steps.add(going.to(ScalarType.Long));
          }
          return List.of(steps, numbers);
        });
  }

  @Test
  void tensorsAreSplitAtIndicesFromTheDeviceAndFromTheCpu() {
    Tensor at = Tensor.create(1L, 4L, 9L);
    both.assertSame(
        device -> {
          List<Tensor> parts = new ArrayList<>();
          Tensor whole = on(device, randn(11, 3));
          for (TensorVector split :
              List.of(
                  whole.tensor_split(at),
                  whole.tensor_split(on(device, at)),
                  whole.tensor_split(3),
                  whole.tensor_split(2, 1))) {
            for (long i = 0; i < split.size(); i++) {
              parts.add(split.get(i));
            }
          }
          return parts;
        });
  }

  @Test
  void masksAndIndicesAreTakenFromTheDeviceAndFromTheCpu() {
    both.assertSame(
        device -> {
          Tensor table = on(device, randn(6, 4));
          Tensor rows = Tensor.create(4L, 0L, 4L, 2L);
          Tensor mask = table.cpu().gt(new Scalar(0));
          List<Tensor> results = new ArrayList<>();
          for (Device place : List.of(device, new Device("cpu"))) {
            results.add(table.index(indices(on(place, rows))));
            results.add(table.index(indices(on(place, mask))));
            results.add(table.index(indices(on(place, mask.select(1, 0)))));
            results.add(table.index(indices(on(place, rows), on(place, rows.sub(rows)))));
            Tensor written = table.clone();
            written.index_put_(indices(on(place, mask)), new Scalar(7));
            written.index_put_(indices(on(place, rows)), on(device, randn(4, 4)));
            results.add(written);
          }
          results.add(table.masked_select(on(device, mask)));
          return results;
        });
  }

  private static TensorIndexVector indices(Tensor... tensors) {
    TensorIndexVector indices = new TensorIndexVector();
    for (Tensor tensor : tensors) {
      indices.push_back(new TensorIndex(tensor));
    }
    return indices;
  }

  @Test
  void bagsOfEmbeddingsAndTheirGradients() {
    both.assertSame(
        device -> {
          List<Tensor> results = new ArrayList<>();
          Tensor words = on(device, randint(10, new long[] {12}));
          Tensor offsets = on(device, Tensor.create(0L, 3L, 3L, 8L));
          for (long mode = 0; mode < 3; mode++) {
            Tensor weight = parameter(device, 10, 5);
            Tensor bags =
                embedding_bag(
                        weight,
                        words,
                        offsets,
                        false,
                        mode,
                        false,
                        new org.bytedeco.pytorch.TensorOptional(),
                        false)
                    .get0();
            bags.mul(bags).sum().backward();
            results.add(bags);
            results.add(weight.grad());
          }
          EmbeddingBagFuncOptions options = new EmbeddingBagFuncOptions();
          options.offsets().put(offsets);
          results.add(embedding_bag(words, parameter(device, 10, 5), options));
          return results;
        });
  }

  @Test
  void fusedOptimizersTakeTheLearningRateFromTheDevice() {
    for (String name : List.of("adam", "adamw")) {
      both.assertSame(device -> trainFused("aten::_fused_" + name + "_", device));
    }
  }

  /** As with `capturable`, steps, rate and whether to skip are tensors on the device. */
  private static List<Tensor> trainFused(String operator, Device device) {
    Tensor weight = parameter(device, 6, 3);
    Tensor bias = parameter(device, 3);
    Tensor input = on(device, randn(16, 6));
    Tensor target = on(device, randn(16, 3));
    List<Tensor> state = new ArrayList<>();
    for (Tensor parameter : List.of(weight, bias, weight, bias)) {
      state.add(parameter.detach().mul(new Scalar(0)));
    }
    Tensor steps = on(device, Tensor.create(0f)).squeeze();
    Tensor rate = on(device, Tensor.create(0.05f)).squeeze();
    Tensor skipped = on(device, Tensor.create(0f)).squeeze();
    for (int step = 0; step < 5; step++) {
      TensorVector found =
          grad(
              new TensorVector(mse_loss(input.mm(weight).add(bias), target)),
              new TensorVector(weight, bias));
      steps.add_(new Scalar(1));
      Dispatched.call(
          operator,
          "tensor_lr",
          List.of(weight.detach(), bias.detach()),
          List.of(found.get(0), found.get(1)),
          List.of(state.get(0), state.get(1)),
          List.of(state.get(2), state.get(3)),
          List.of(),
          List.of(steps, steps),
          rate,
          0.9,
          0.99,
          0.1,
          1e-8,
          false,
          false,
          null,
          skipped);
    }
    state.add(weight.detach());
    state.add(bias.detach());
    return state;
  }

  /** Gradients are scaled; a step that overflows is left out, and the scale is halved. */
  @Test
  void gradientsAreScaledUnderAutocast() {
    both.assertSame(
        device -> {
          DeviceType type = device.is_cpu() ? DeviceType.CPU : DeviceType.PrivateUse1;
          Tensor weight = parameter(device, 6, 3);
          Tensor input = on(device, randn(16, 6));
          Tensor target = on(device, randn(16, 3));
          Tensor scale = on(device, Tensor.create(1024f));
          Tensor growth = on(device, Tensor.create(0));
          List<Tensor> results = new ArrayList<>();
          for (int step = 0; step < 6; step++) {
            Tensor loss;
            // The cache keeps casts of weights until autocast ends.
            torch.set_autocast_cache_enabled(false);
            torch.set_autocast_enabled(type, true);
            torch.set_autocast_dtype(type, ScalarType.BFloat16);
            try {
              Tensor output = input.mm(weight);
              assertThat(output.scalar_type().intern()).isEqualTo(ScalarType.BFloat16);
              loss = mse_loss(output.to(ScalarType.Float), target);
            } finally {
              torch.set_autocast_enabled(type, false);
            }
            Tensor factor = step == 2 ? on(device, Tensor.create(Float.POSITIVE_INFINITY)) : scale;
            Tensor gradient =
                grad(new TensorVector(loss.mul(factor).sum()), new TensorVector(weight)).get(0);
            Tensor overflow = on(device, Tensor.create(0f));
            Dispatched.call(
                "aten::_amp_foreach_non_finite_check_and_unscale_",
                "",
                List.of(gradient),
                overflow,
                scale.reciprocal());
            if (overflow.item_float() == 0) {
              weight.detach().sub_(gradient.mul(new Scalar(0.1)));
            }
            Dispatched.call("aten::_amp_update_scale_", "", scale, growth, overflow, 2.0, 0.5, 2L);
            results.add(scale.clone());
            results.add(overflow);
          }
          results.add(weight.detach());
          return results;
        });
  }

  /** Gradient checkpointing: the segment's values are not kept but computed again for backward. */
  @Test
  void aSegmentIsComputedAgainInBackwardWithTheSameRandomNumbers() {
    both.assertSame(
        device -> {
          Tensor weight = parameter(device, 8, 8);
          Tensor input = on(device, randn(4, 8)).requires_grad_(true);
          UnaryOperator<Tensor> segment =
              x -> torch.dropout(x.mm(weight).tanh(), 0.5, true).mm(weight);
          Generator generator =
              device.is_cpu() ? torch.getDefaultCPUGenerator() : both.machine().generator(0);
          generator.set_current_seed(5);
          Tensor state = generator.get_state();
          Tensor output;
          try (NoGradGuard guard = new NoGradGuard()) {
            output = segment.apply(input);
          }
          Tensor continued = output.detach().requires_grad_(true);
          try (VoidTensorHook recompute = // runs on the device's thread, within backward
              new VoidTensorHook() {
                @Override
                public void call(TensorBase gradient) {
                  generator.set_state(state);
                  try (org.bytedeco.pytorch.AutoGradMode mode =
                      new org.bytedeco.pytorch.AutoGradMode(true)) {
                    Tensor again = segment.apply(input);
                    again.backward(
                        new Tensor(gradient),
                        new BoolOptional(),
                        false,
                        new org.bytedeco.pytorch.TensorArrayRefOptional());
                  }
                }
              }) {
            continued.register_hook(recompute);
            continued.mul(continued).sum().backward();
          }
          return List.of(output, input.grad(), weight.grad());
        });
  }

  @Test
  void inferenceModeMakesTensorsThatAutogradRefuses() {
    both.assertSame(
        device -> {
          Tensor weight = parameter(device, 4, 4);
          Tensor output;
          try (InferenceMode mode = new InferenceMode()) {
            output = on(device, randn(3, 4)).mm(weight).relu_();
            output.select(0, 1).fill_(new Scalar(2));
            assertThat(output.is_inference()).isTrue();
            assertThat(output.requires_grad()).isFalse();
          }
          return List.of(output.add(output), output.clone());
        });
    both.assertBothThrow(
        device -> {
          Tensor weight = parameter(device, 4, 4);
          Tensor output;
          try (InferenceMode mode = new InferenceMode()) {
            output = on(device, randn(3, 4));
          }
          return List.of(output.mm(weight));
        },
        "Inference tensors cannot be saved for backward");
  }

  @Test
  void complexParametersHaveGradients() {
    both.assertSame(
        device -> {
          Tensor weight =
              on(device, torch.view_as_complex(randn(8, 8, 2)).clone()).requires_grad_(true);
          Tensor signal = on(device, randn(4, 8));
          Tensor spectrum = fft_fft(signal).mm(weight);
          Tensor loss =
              torch
                  .real(spectrum.mul(spectrum.conj()))
                  .sum()
                  .add(torch.imag(spectrum).abs().mean())
                  .add(torch.angle(weight).sum());
          loss.backward();
          return List.of(spectrum, loss, weight.grad(), torch.view_as_real(weight.grad()));
        });
  }

  /** A penalty on the gradient, as in a critic's training. */
  @Test
  void gradientsOfGradients() {
    both.assertSame(
        device -> {
          Tensor first = parameter(device, 5, 8);
          Tensor second = parameter(device, 8, 1);
          Tensor input = parameter(device, 6, 5);
          Tensor score = input.mm(first).tanh().mm(second).sigmoid();
          TensorVector slope =
              grad(
                  new TensorVector(score.sum()),
                  new TensorVector(input),
                  new TensorVector(),
                  new BoolOptional(),
                  true,
                  false);
          Tensor penalty = slope.get(0).norm().sub(new Scalar(1)).pow(new Scalar(2));
          penalty.backward();
          return List.of(penalty, first.grad(), second.grad());
        });
  }

  @Test
  void derivativesInOneDirectionInForwardMode() {
    both.assertSame(
        device -> {
          Tensor weight = on(device, randn(5, 8));
          Tensor input = on(device, randn(6, 5));
          Tensor direction = on(device, randn(6, 5));
          try (ForwardMode level = new ForwardMode()) {
            Tensor dual = ForwardMode.dual(input, direction);
            Tensor output = torch.layer_norm(dual.mm(weight), 8).softmax(1).add(dual.sum().sin());
            Tensor tangent = ForwardMode.tangent(output);
            assertThat(tangent.defined()).isTrue();
            return List.of(output.detach(), tangent.clone());
          }
        });
  }

  @Test
  void eventsAreOfOneMachine() throws Exception {
    Set<ProcessHandle> before = children();
    try (RemoteMachine other = RemoteMachine.open("mock");
        PointerScope scope = new PointerScope();
        RemoteEvent here = both.machine().recordEvent(0);
        RemoteEvent there = other.recordEvent(0)) {
      there.synchronize();
      Set<ProcessHandle> nodes = children();
      nodes.removeAll(before);
      signal("STOP", nodes); // the other machine executes nothing from here on
      try (RemoteEvent hereLater = both.machine().recordEvent(0);
          RemoteEvent thereLater = other.recordEvent(0)) {
        hereLater.synchronize();
        assertThat(here.query()).isTrue();
        assertThat(here.elapsedMillis(hereLater)).isNotNegative();
        assertThat(thereLater.query()).isFalse();
        assertThatThrownBy(() -> here.elapsedMillis(thereLater))
            .isInstanceOf(RemoraException.class);
        signal("CONT", nodes);
        thereLater.synchronize();
        assertThat(there.elapsedMillis(thereLater)).isPositive();
      } finally {
        signal("CONT", nodes);
      }
    }
  }

  private static Set<ProcessHandle> children() {
    return ProcessHandle.current().children().collect(Collectors.toSet());
  }

  private static void signal(String name, Set<ProcessHandle> processes) throws Exception {
    for (ProcessHandle process : processes) {
      new ProcessBuilder("kill", "-" + name, Long.toString(process.pid()))
          .start()
          .waitFor(30, TimeUnit.SECONDS);
    }
  }
}
