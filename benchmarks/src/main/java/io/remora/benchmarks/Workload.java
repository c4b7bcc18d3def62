// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import java.util.List;

/** Something measured on both sides, with the same code. */
interface Workload {

  /** The figures of one run, in the order of the values that {@link Prepared#run()} returns. */
  List<Figure> figures();

  /** Makes the tensors on one side; not timed. */
  Prepared prepare(Side side);

  /** Holds the tensors of one workload on one side. */
  interface Prepared extends AutoCloseable {

    /** Runs once, to the end of the computation, and returns one value for each figure. */
    double[] run();

    @Override
    void close();
  }

  /**
   * A figure that a run returns.
   *
   * @param key name in the JSON file
   * @param title name in the table
   * @param unit unit of its values
   * @param higherIsBetter tells how to divide local and remote, so that a ratio above 1 always
   *     means that remote is better
   * @param target the target, for the table; empty if there is none
   * @param yardstick what the figure is compared with on a bare connection, in the same unit
   */
  record Figure(
      String key,
      String title,
      String unit,
      boolean higherIsBetter,
      String target,
      Yardstick yardstick) {

    /** A figure without a yardstick. */
    Figure(String key, String title, String unit, boolean higherIsBetter, String target) {
      this(key, title, unit, higherIsBetter, target, Yardstick.NONE);
    }
  }
}
