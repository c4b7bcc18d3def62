// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.Locale;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * How the inputs of a sample are made for one trial.
 *
 * @param dtype of the tensors that leave it open
 * @param layout of all tensors
 * @param out the form of out arguments
 * @param derivative which derivatives are computed as well
 */
record Variant(ScalarType dtype, Layout layout, OutForm out, Derivative derivative) {

  enum Derivative {
    NONE,
    BACKWARD,
    /** Gradients of gradients. */
    DOUBLE_BACKWARD,
    /** Tangents, by forward-mode automatic differentiation. */
    FORWARD_MODE
  }

  enum Layout {
    CONTIGUOUS,
    /** The reverse order of dimensions in memory. */
    TRANSPOSED,
    /** Every other element, from an offset on. */
    SLICED,
    CHANNELS_LAST,
    /** Stride 0 in the first dimension. */
    EXPANDED,
    /** Size 0 in the first dimension. */
    EMPTY,
    /** No dimension at all. */
    SCALAR,
    /** Lazily conjugated. */
    CONJUGATE,
    /** Lazily negated. */
    NEGATIVE,
    /** With NaN, infinities and negative zero among the values. */
    SPECIAL
  }

  enum OutForm {
    EMPTY,
    EXACT,
    TRANSPOSED
  }

  static Variant of(ScalarType dtype) {
    return new Variant(dtype, Layout.CONTIGUOUS, OutForm.EMPTY, Derivative.NONE);
  }

  Variant with(Layout other) {
    return new Variant(dtype, other, out, derivative);
  }

  Variant with(OutForm other) {
    return new Variant(dtype, layout, other, derivative);
  }

  Variant with(Derivative other) {
    return new Variant(dtype, layout, out, other);
  }

  /** Whether the inputs are leaves of a graph. */
  boolean backward() {
    return derivative == Derivative.BACKWARD || derivative == Derivative.DOUBLE_BACKWARD;
  }

  @Override
  public String toString() {
    return (dtype + " " + layout + (out == OutForm.EMPTY ? "" : " out " + out))
            .toLowerCase(Locale.ROOT)
        + switch (derivative) {
          case NONE -> "";
          case BACKWARD -> " backward";
          case DOUBLE_BACKWARD -> " backward twice";
          case FORWARD_MODE -> " forward mode";
        };
  }
}
