// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import java.util.Locale;

/**
 * Compares two series of losses.
 *
 * @param steps losses compared
 * @param equalBits how many have the same 32 bits
 * @param firstDifference index of the first that differs, -1 when none does
 * @param largestDifference the largest absolute difference; NaN when one side is NaN and the other
 *     is not
 */
record LossComparison(int steps, int equalBits, int firstDifference, double largestDifference) {

  static LossComparison of(float[] local, float[] remote) {
    if (local.length != remote.length) {
      throw new IllegalArgumentException(
          "Cannot compare " + local.length + " losses with " + remote.length);
    }
    int equal = 0;
    int first = -1;
    double largest = 0;
    for (int i = 0; i < local.length; i++) {
      if (Float.floatToRawIntBits(local[i]) == Float.floatToRawIntBits(remote[i])) {
        equal++;
        continue;
      }
      if (first < 0) {
        first = i;
      }
      largest = Math.max(largest, Math.abs((double) local[i] - remote[i]));
    }
    return new LossComparison(local.length, equal, first, largest);
  }

  boolean identical() {
    return equalBits == steps;
  }

  @Override
  public String toString() {
    String counts =
        String.format(
            Locale.ROOT,
            "%d steps compared, %d with equal bits, largest difference %.3g",
            steps,
            equalBits,
            largestDifference);
    return identical()
        ? counts + " -> EQUAL"
        : counts + " -> DIFFERENT from step " + (firstDifference + 1);
  }
}
