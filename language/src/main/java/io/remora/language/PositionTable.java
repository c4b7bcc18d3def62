// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.where;

import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Tensors that depend on positions alone. They stay on the device while the model is used. */
final class PositionTable {
  private final int groupSize;
  private final ScalarType dtype;
  private final RotaryEmbedding rotary;
  private final Tensor all;

  /**
   * The positions of the tokens of one call, in the forms that the layers need.
   *
   * @param indices {@code [time]}, int64
   * @param span how many keys attention reads
   * @param rotation of queries and keys
   * @param mask what is added to the scores, {@code [group size * time, span]}, or {@code [1,
   *     span]} for one token: 0 where a token may attend, minus infinity where it may not
   */
  record Positions(Tensor indices, long span, RotaryEmbedding.Rotation rotation, Tensor mask) {}

  /** A table for texts of up to {@code capacity} tokens and a model of this dtype. */
  PositionTable(LlamaConfig config, long capacity, Device device, ScalarType dtype) {
    this.groupSize = config.groupSize();
    this.dtype = dtype;
    this.rotary = new RotaryEmbedding(config, capacity, device, dtype);
    this.all = range(capacity, device);
  }

  /** 0, 1, 2 … {@code [count]}, int64. */
  static Tensor range(long count, Device device) {
    return arange(new Scalar(count), Place.options(device, ScalarType.Long));
  }

  /** The first {@code count} positions, {@code [count]}. */
  Tensor first(long count) {
    return all.narrow(0, 0, count);
  }

  /** Tokens at these positions, {@code [time]}, which attend to the first {@code span} keys. */
  Positions at(Tensor indices, long span) {
    Tensor visible = first(span).le(indices.unsqueeze(1));
    Tensor mask = where(visible, new Scalar(0.0), new Scalar(Double.NEGATIVE_INFINITY)).to(dtype);
    boolean oneToken = indices.size(0) == 1;
    return new Positions(
        indices, span, rotary.at(indices), oneToken ? mask : mask.repeat(groupSize, 1));
  }
}
