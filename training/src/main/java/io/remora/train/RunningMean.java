// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.bytedeco.pytorch.global.torch.zeros;

import io.remora.client.TensorScope;
import java.util.Objects;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * The mean of values that stay on their device, such as the losses of an epoch. Only {@link
 * #value()} waits. The sum is kept in float64, on the device of the first value, and outlives the
 * scopes of the loop. One thread at a time may use it.
 */
@SuppressWarnings("try") // guards and scopes are opened only to be closed
public final class RunningMean implements AutoCloseable {
  private Tensor sum;
  private double weights;

  /** A mean of no values. */
  public RunningMean() {}

  /** {@link #update(Tensor, double)} with the weight 1. */
  public void update(Tensor value) {
    update(value, 1);
  }

  /**
   * Adds a value.
   *
   * @param value one element, of any real dtype; it may require gradients. It is not changed
   * @param weight how much the value counts, 0 or more: the number of samples of a batch, for a
   *     loss that is a mean over the batch
   * @throws IllegalArgumentException if the tensor has not exactly one element, or the weight is
   *     negative or NaN
   */
  public void update(Tensor value, double weight) {
    if (Objects.requireNonNull(value, "value").numel() != 1) {
      throw new IllegalArgumentException(
          "The value has %d elements, but must have one".formatted(value.numel()));
    }
    if (!(weight >= 0)) {
      throw new IllegalArgumentException("weight must not be negative, but is " + weight);
    }
    try (NoGradGuard noGradients = new NoGradGuard();
        TensorScope scope = TensorScope.open()) {
      if (sum == null) {
        sum =
            Retained.by(
                zeros(
                    new long[] {},
                    new TensorOptions(ScalarType.Double)
                        .device(new DeviceOptional(value.device()))));
      }
      sum.add_(value.detach().reshape().to(sum.device(), ScalarType.Double), new Scalar(weight));
    }
    weights += weight;
  }

  /** The mean of the values since the last {@link #reset()}; NaN without values. Waits. */
  public double value() {
    try (TensorScope scope = TensorScope.open()) {
      return sum == null ? Double.NaN : sum.item_double() / weights;
    }
  }

  /** Forgets all values. Does not wait. */
  public void reset() {
    if (sum != null) {
      sum.zero_();
    }
    weights = 0;
  }

  /** Frees the sum. The mean can be used again after that. */
  @Override
  public void close() {
    if (sum != null) {
      sum.close();
    }
    sum = null;
    weights = 0;
  }
}
