// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.Locale;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * How the inputs of a sample are made for one trial.
 *
 * @param dtype of the tensors that leave it open
 * @param layout of all tensors
 * @param out what out arguments look like
 * @param backward whether gradients are computed as well
 */
record Variant(ScalarType dtype, Layout layout, OutForm out, boolean backward) {

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
    return new Variant(dtype, Layout.CONTIGUOUS, OutForm.EMPTY, false);
  }

  Variant with(Layout other) {
    return new Variant(dtype, other, out, backward);
  }

  Variant with(OutForm other) {
    return new Variant(dtype, layout, other, backward);
  }

  Variant withBackward() {
    return new Variant(dtype, layout, out, true);
  }

  @Override
  public String toString() {
    return (dtype + " " + layout + (out == OutForm.EMPTY ? "" : " out " + out))
            .toLowerCase(Locale.ROOT)
        + (backward ? " backward" : "");
  }
}
