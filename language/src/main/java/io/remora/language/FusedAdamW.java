// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.zeros;
import static org.bytedeco.pytorch.global.torch.zeros_like;

import io.remora.train.Gradients;
import io.remora.train.Operators;
import java.util.LinkedHashMap;
import java.util.Map;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * AdamW, in libtorch's fused kernel: a step is one operation for the whole model. Its state is
 * tensors beside the parameters, which can be saved and restored where they are; the optimizer of
 * bytedeco's binding does not expose its state.
 */
public final class FusedAdamW {

  /**
   * AdamW's parameters other than the learning rate.
   *
   * @param beta1 decay of the gradients' mean
   * @param beta2 decay of the squares' mean
   * @param epsilon added to the root of the squares' mean
   * @param weightDecay times the learning rate, the share of each parameter that is subtracted
   */
  public record Options(double beta1, double beta2, double epsilon, double weightDecay) {
    /** PyTorch's defaults, except for the weight decay. */
    public static Options withWeightDecay(double weightDecay) {
      return new Options(0.9, 0.999, 1e-8, weightDecay);
    }
  }

  private final Options options;
  private final Map<String, Tensor> state = new LinkedHashMap<>();
  private final TensorVector parameters = new TensorVector();
  private final TensorVector means = new TensorVector();
  private final TensorVector squares = new TensorVector();
  private final TensorVector counters = new TensorVector();
  private final Tensor counter;
  private final Tensor rate;

  /**
   * An optimizer of these parameters, by name. They and the optimizer's state are on the device.
   */
  public FusedAdamW(Map<String, Tensor> named, Device device, Options options) {
    this.options = options;
    counter = zeros(new long[] {}, Place.options(device, ScalarType.Float));
    rate = zeros(new long[] {}, Place.options(device, ScalarType.Float));
    state.put("step", counter);
    named.forEach(
        (name, parameter) -> {
          Tensor mean = zeros_like(parameter.detach());
          Tensor square = zeros_like(parameter.detach());
          state.put("mean." + name, mean);
          state.put("square." + name, square);
          parameters.push_back(parameter);
          means.push_back(mean);
          squares.push_back(square);
          counters.push_back(counter);
        });
  }

  /**
   * Everything that the next step depends on, by name: {@code step}, and for each parameter {@code
   * mean.<name>} and {@code square.<name>}. To continue where another optimizer stopped, copy its
   * state into these tensors.
   */
  public Map<String, Tensor> state() {
    return state;
  }

  /**
   * Updates the parameters from their gradients, and drops the gradients.
   *
   * @param mostNorm the largest norm of all gradients together; larger ones are scaled down
   */
  public void step(double learningRate, double mostNorm) {
    try (NoGradGuard noGradients = new NoGradGuard()) {
      Gradients.clip_grad_norm_(parameters, mostNorm);
      TensorVector gradients = new TensorVector();
      for (Tensor parameter : parameters.get()) {
        gradients.push_back(parameter.mutable_grad());
      }
      counter.add_(new Scalar(1.0));
      // As a tensor: a number that changes with each step would make each step a call that the
      // machine has not seen before.
      rate.fill_(new Scalar(learningRate));
      Operators.call(
          "aten::_fused_adamw_",
          "tensor_lr",
          parameters,
          gradients,
          means,
          squares,
          new TensorVector(),
          counters,
          rate,
          options.beta1(),
          options.beta2(),
          options.weightDecay(),
          options.epsilon(),
          false, // amsgrad
          false, // maximize
          null, // scale of the gradients
          null);
      for (Tensor parameter : parameters.get()) {
        parameter.mutable_grad().reset();
      }
    }
  }
}
