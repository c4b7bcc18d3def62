// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.linear;

import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptional;
import org.bytedeco.pytorch.TensorOptions;

/**
 * A linear layer. Unlike libtorch's, it can be made on any device, including {@code meta}. Its
 * parameters are not initialized, because they come from a checkpoint.
 */
final class Linear extends Module {
  private final Tensor weight;
  private final Tensor bias;
  private LowRank adapter;

  /** Weight {@code [outputs, inputs]} and, where wanted, bias {@code [outputs]}. */
  Linear(long inputs, long outputs, boolean bias, TensorOptions options) {
    // These are separate handles: what register_parameter returns points into the module's list,
    // which moves when it grows.
    this.weight = empty(new long[] {outputs, inputs}, options, null);
    register_parameter("weight", weight);
    this.bias = bias ? empty(new long[] {outputs}, options, null) : null;
    if (bias) {
      register_parameter("bias", this.bias);
    }
  }

  /** {@code [..., inputs]} to {@code [..., outputs]}. */
  Tensor forward(Tensor input) {
    Tensor output =
        bias == null ? linear(input, weight) : linear(input, weight, new TensorOptional(bias));
    return adapter == null ? output : adapter.addTo(output, input);
  }

  Tensor weight() {
    return weight;
  }

  /** What is added to the output; null for nothing. */
  void adapt(LowRank lowRank) {
    adapter = lowRank;
  }

  boolean isAdapted() {
    return adapter != null;
  }
}
