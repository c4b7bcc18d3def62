// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import io.remora.client.TensorScope;
import java.util.Arrays;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * The share of samples whose largest score is that of the right class, counted on the device. Only
 * {@link #value()} waits. One thread at a time may use it.
 */
@SuppressWarnings("try") // guards and scopes are opened only to be closed
public final class Accuracy implements AutoCloseable {
  private final RunningMean correct = new RunningMean();

  /** The accuracy of no samples. */
  public Accuracy() {}

  /**
   * Counts a batch.
   *
   * @param scores {@code [samples, classes]}, such as the output of a model
   * @param labels the right classes, {@code [samples]}, an integer dtype, on the same device
   * @throws IllegalArgumentException if the shapes do not fit
   */
  public void update(Tensor scores, Tensor labels) {
    if (scores.dim() != 2 || labels.dim() != 1 || scores.size(0) != labels.size(0)) {
      throw new IllegalArgumentException(
          "Scores must be [samples, classes] and labels [samples], but they are %s and %s"
              .formatted(Arrays.toString(scores.shape()), Arrays.toString(labels.shape())));
    }
    if (labels.size(0) == 0) {
      return;
    }
    try (NoGradGuard noGradients = new NoGradGuard();
        TensorScope scope = TensorScope.open()) {
      Tensor hits = scores.argmax(new LongOptional(1), false).eq(labels);
      correct.update(hits.to(hits.device(), ScalarType.Double).mean(), (double) labels.size(0));
    }
  }

  /**
   * The share of the samples since the last {@link #reset()}, 0 to 1; NaN without samples. Waits.
   */
  public double value() {
    return correct.value();
  }

  /** Forgets all samples. Does not wait. */
  public void reset() {
    correct.reset();
  }

  /** Frees the counter. The accuracy can be used again after that. */
  @Override
  public void close() {
    correct.close();
  }
}
