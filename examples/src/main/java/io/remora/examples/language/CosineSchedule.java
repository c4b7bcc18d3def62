// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

/**
 * A learning rate that grows evenly, then falls to nothing along half a cosine.
 *
 * @param peak the highest
 * @param warmUp steps until then
 * @param steps in all
 */
record CosineSchedule(double peak, int warmUp, int steps) {

  /** The learning rate of a step, from 0 on. */
  double at(int step) {
    if (step < warmUp) {
      return peak * step / warmUp;
    }
    double progress = (double) (step - warmUp) / Math.max(1, steps - warmUp);
    return peak * 0.5 * (1 + Math.cos(Math.PI * progress));
  }
}
