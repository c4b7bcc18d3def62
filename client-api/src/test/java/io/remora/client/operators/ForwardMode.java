// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import org.bytedeco.pytorch.ForwardADLevel;
import org.bytedeco.pytorch.Tensor;

/** A level of forward-mode differentiation, entered while it is open. libtorch has one. */
final class ForwardMode implements AutoCloseable {

  private static final long LEVEL = 0;

  ForwardMode() {
    long level = ForwardADLevel.get_next_idx();
    if (level != LEVEL) {
      ForwardADLevel.release_idx(level);
      throw new IllegalStateException("A level is open already");
    }
  }

  /** A tensor with a tangent. */
  static Tensor dual(Tensor primal, Tensor tangent) {
    return Dispatched.call("aten::_make_dual", "", primal, tangent, LEVEL).get(0).toTensor();
  }

  /** A tensor's tangent; undefined if it has none. */
  static Tensor tangent(Tensor dual) {
    return Dispatched.call("aten::_unpack_dual", "", dual, LEVEL).get(1).toTensor();
  }

  @Override
  public void close() {
    ForwardADLevel.release_idx(LEVEL);
  }
}
