// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.dropout;
import static org.bytedeco.pytorch.global.torch.linear;

import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;

/**
 * The adapter of one linear layer: two small matrices whose product is added to the layer's weight,
 * in effect. Computed in the matrices' dtype.
 */
final class LowRank {
  private final Tensor down;
  private final Tensor up;
  private final double scale;
  private final double dropout;
  private boolean training;

  /**
   * @param down {@code [rank, inputs]}
   * @param up {@code [outputs, rank]}
   */
  LowRank(Tensor down, Tensor up, double scale, double dropout) {
    this.down = down;
    this.up = up;
    this.scale = scale;
    this.dropout = dropout;
  }

  Tensor down() {
    return down;
  }

  Tensor up() {
    return up;
  }

  /** Whether inputs are dropped at random. */
  void train(boolean on) {
    training = on;
  }

  /** The layer's output for this input, with the adapter's added to it. */
  Tensor addTo(Tensor output, Tensor input) {
    Tensor cast = input.to(down.scalar_type());
    Tensor kept = training && dropout > 0 ? dropout(cast, dropout, true) : cast;
    Tensor added = linear(linear(kept, down), up).mul(new Scalar(scale));
    return output.add(added).to(output.scalar_type());
  }

  /** What the adapter adds to the layer's weight, {@code [outputs, inputs]}, in that dtype. */
  Tensor product(Tensor weight) {
    return up.mm(down).mul(new Scalar(scale)).to(weight.scalar_type());
  }
}
