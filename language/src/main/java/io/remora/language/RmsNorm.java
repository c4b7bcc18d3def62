// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.rms_norm;

import org.bytedeco.pytorch.DoubleOptional;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptional;
import org.bytedeco.pytorch.TensorOptions;

/** Divides each token's numbers by the root of their mean square, and scales them. */
final class RmsNorm extends Module {
  private final Tensor weight;
  private final long[] shape;
  private final double epsilon;

  /** Weight {@code [size]}. */
  RmsNorm(long size, double epsilon, TensorOptions options) {
    this.shape = new long[] {size};
    this.epsilon = epsilon;
    this.weight = empty(shape, options, null);
    register_parameter("weight", weight);
  }

  /** {@code [..., size]} to the same shape. */
  Tensor forward(Tensor input) {
    return rms_norm(input, shape, new TensorOptional(weight), new DoubleOptional(epsilon));
  }
}
