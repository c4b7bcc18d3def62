// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

/**
 * A learning rate that rises linearly, then falls to zero along half a cosine.
 *
 * @param peak the highest learning rate
 * @param warmUp steps until the peak
 * @param steps all steps
 */
record CosineSchedule(double peak, int warmUp, int steps) {

  /** The learning rate of a step; the first step is 0. */
  double at(int step) {
    if (step < warmUp) {
      return peak * step / warmUp;
    }
    double progress = (double) (step - warmUp) / Math.max(1, steps - warmUp);
    return peak * 0.5 * (1 + Math.cos(Math.PI * progress));
  }
}
