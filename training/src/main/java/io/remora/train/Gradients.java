// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.bytedeco.pytorch.global.torch.linalg_vector_norm;
import static org.bytedeco.pytorch.global.torch.stack;

import io.remora.client.TensorScope;
import java.util.LinkedHashMap;
import java.util.Map;
import org.bytedeco.pytorch.LongArrayRefOptional;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;

/**
 * Limits gradients, without waiting for their values: bytedeco's {@code clip_grad_norm_} reads the
 * norm in each step. Formulas and names are those of {@code torch.nn.utils}. The gradients of a
 * device are changed by a single operation. A call must not run while another thread uses the same
 * gradients.
 */
@SuppressWarnings("try") // the guard is opened only to be closed
public final class Gradients {

  private Gradients() {}

  /** {@link #clip_grad_norm_(TensorVector, double, double)} with the Euclidean norm. */
  @SuppressWarnings("MethodName") // PyTorch's name
  public static Tensor clip_grad_norm_(TensorVector parameters, double maxNorm) {
    return clip_grad_norm_(parameters, maxNorm, 2);
  }

  /**
   * Scales the gradients down where the norm of all of them together exceeds a limit: PyTorch's
   * {@code clip_grad_norm_}, which multiplies by {@code min(1, maxNorm / (norm + 1e-6))}. A norm
   * that is not finite makes the gradients NaN or 0, as in PyTorch with {@code
   * error_if_nonfinite=False}.
   *
   * @param parameters the tensors whose gradients are limited; those without a gradient are ignored
   * @param maxNorm the limit
   * @param normType the power of the norm; {@link Double#POSITIVE_INFINITY} for the largest
   *     absolute value
   * @return the norm before the change, a scalar on the device of the first gradient; the caller
   *     closes it. Without gradients it is a 0 on the CPU. Reading it waits
   */
  @SuppressWarnings("MethodName") // PyTorch's name
  public static Tensor clip_grad_norm_(TensorVector parameters, double maxNorm, double normType) {
    try (NoGradGuard noGradients = new NoGradGuard()) {
      return TensorScope.of(
          scope -> {
            Map<String, TensorVector> byDevice = gradients(parameters);
            TensorVector norms = new TensorVector();
            Tensor first = null;
            for (TensorVector gradients : byDevice.values()) {
              TensorVector some =
                  Operators.call("aten::_foreach_norm", "Scalar", gradients, normType, null)
                      .get(0)
                      .toTensorVector();
              for (Tensor norm : some.get()) {
                first = first == null ? norm : first;
                norms.push_back(norm.to(first.device(), norm.scalar_type()));
              }
            }
            if (first == null) {
              return Tensor.create(0f).squeeze();
            }
            Tensor norm =
                linalg_vector_norm(
                    stack(norms),
                    new Scalar(normType),
                    new LongArrayRefOptional(),
                    false,
                    new ScalarTypeOptional());
            Tensor factor =
                norm.add(new Scalar(1e-6))
                    .reciprocal()
                    .mul(new Scalar(maxNorm))
                    .clamp_max(new Scalar(1.0));
            for (TensorVector gradients : byDevice.values()) {
              Operators.call(
                  "aten::_foreach_mul_",
                  "Tensor",
                  gradients,
                  factor.to(gradients.get(0).device(), factor.scalar_type()));
            }
            return norm;
          });
    }
  }

  /**
   * Limits each element of the gradients to {@code -clipValue} to {@code clipValue}: PyTorch's
   * {@code clip_grad_value_}.
   *
   * @param parameters the tensors whose gradients are limited; those without a gradient are ignored
   * @param clipValue the limit, 0 or more
   * @throws IllegalArgumentException if the limit is negative or NaN
   */
  @SuppressWarnings("MethodName") // PyTorch's name
  public static void clip_grad_value_(TensorVector parameters, double clipValue) {
    if (!(clipValue >= 0)) {
      throw new IllegalArgumentException("clipValue must not be negative, but is " + clipValue);
    }
    try (NoGradGuard noGradients = new NoGradGuard();
        TensorScope scope = TensorScope.open()) {
      for (TensorVector gradients : gradients(parameters).values()) {
        Operators.call("aten::_foreach_clamp_min_", "Scalar", gradients, -clipValue);
        Operators.call("aten::_foreach_clamp_max_", "Scalar", gradients, clipValue);
      }
    }
  }

  /** The gradients by device and dtype: an operator on a list of tensors wants them alike. */
  private static Map<String, TensorVector> gradients(TensorVector parameters) {
    Map<String, TensorVector> byDevice = new LinkedHashMap<>();
    for (Tensor parameter : parameters.get()) {
      Tensor gradient = parameter.mutable_grad();
      if (gradient.defined()) {
        byDevice
            .computeIfAbsent(
                gradient.device().str().getString() + " " + gradient.scalar_type(),
                group -> new TensorVector())
            .push_back(gradient);
      }
    }
    return byDevice;
  }
}
