// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import java.util.Map;

/**
 * Numbers that a checkpoint keeps beside tensors: what a part of the training loop remembers from
 * one step to the next.
 */
public interface Resumable {

  /** All numbers by name. A value may be NaN or infinite. */
  Map<String, Double> state();

  /**
   * Continues from the numbers that another object had.
   *
   * @param state what {@link #state()} has returned, with all of its names
   */
  void restore(Map<String, Double> state);
}
