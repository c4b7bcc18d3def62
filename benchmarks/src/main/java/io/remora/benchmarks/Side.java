// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import java.util.function.Supplier;
import org.bytedeco.pytorch.Device;

/**
 * One of the two things compared.
 *
 * @param name "local" or "remote"
 * @param device where its tensors live
 * @param synchronize returns once everything asked for so far has been computed
 * @param counters what has been sent so far; all zero for local
 */
record Side(String name, Device device, Runnable synchronize, Supplier<WireCounters> counters) {

  /**
   * What a session has sent since it was opened.
   *
   * @param operations operations recorded
   * @param bytes bytes of all batches, tensor data not counted
   */
  record WireCounters(long operations, long bytes) {

    static final WireCounters ZERO = new WireCounters(0, 0);

    WireCounters minus(WireCounters earlier) {
      return new WireCounters(operations - earlier.operations, bytes - earlier.bytes);
    }

    double bytesPerOperation() {
      return operations == 0 ? 0 : (double) bytes / operations;
    }
  }
}
