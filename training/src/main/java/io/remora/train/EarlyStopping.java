// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import java.util.Map;
import java.util.Objects;

/**
 * Says when a training no longer improves.
 *
 * <pre>{@code
 * EarlyStopping stopping = new EarlyStopping(EarlyStopping.Mode.MIN, 3, 1e-4);
 * while (!stopping.stop(validationLoss())) {
 *   trainEpoch();
 * }
 * }</pre>
 *
 * <p>The rule is that of PyTorch's {@code ReduceLROnPlateau} with {@code threshold_mode='abs'}: a
 * value improves when it is better than the best one by more than the threshold. NaN does not
 * improve. One thread at a time may use an object.
 */
public final class EarlyStopping implements Resumable {

  /** Which values are better. */
  public enum Mode {
    /** Smaller values, such as losses. */
    MIN,
    /** Larger values, such as accuracies. */
    MAX
  }

  private final Mode mode;
  private final int patience;
  private final double threshold;
  private double best;
  private int values;
  private int bestIndex;

  /**
   * A rule that has seen no value.
   *
   * @param patience how many values in a row may bring no improvement, 0 or more; the next one
   *     stops the training
   * @param threshold the smallest improvement that counts, in the unit of the values, 0 or more
   */
  public EarlyStopping(Mode mode, int patience, double threshold) {
    if (patience < 0 || !(threshold >= 0)) {
      throw new IllegalArgumentException(
          "patience and threshold must not be negative, but are %d and %s"
              .formatted(patience, threshold));
    }
    this.mode = Objects.requireNonNull(mode, "mode");
    this.patience = patience;
    this.threshold = threshold;
    this.best = mode == Mode.MIN ? Double.POSITIVE_INFINITY : Double.NEGATIVE_INFINITY;
    this.bestIndex = -1;
  }

  /**
   * Takes the next value.
   *
   * @return whether the training should stop
   */
  public boolean stop(double value) {
    double gain = mode == Mode.MIN ? best - value : value - best;
    if (gain > threshold) {
      best = value;
      bestIndex = values;
    }
    values++;
    return values - 1 - bestIndex > patience;
  }

  /** Whether the last value was the best one, and a checkpoint of the best model is due. */
  public boolean improved() {
    return values > 0 && bestIndex == values - 1;
  }

  /** The best value; infinite before the first one. */
  public double best() {
    return best;
  }

  /** The number of the best value, from 0; -1 before the first one. */
  public int bestIndex() {
    return bestIndex;
  }

  @Override
  public Map<String, Double> state() {
    return Map.of("best", best, "values", (double) values, "bestIndex", (double) bestIndex);
  }

  @Override
  public void restore(Map<String, Double> state) {
    best = state.get("best");
    values = state.get("values").intValue();
    bestIndex = state.get("bestIndex").intValue();
  }
}
