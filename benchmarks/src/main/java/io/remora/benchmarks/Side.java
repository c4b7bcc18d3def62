// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import io.remora.client.RemoteMachine;
import io.remora.runtime.SessionStatistics;
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

  /** The local CPU. */
  static Side local() {
    return new Side("local", new Device("cpu"), () -> {}, () -> WireCounters.ZERO);
  }

  /** A machine's first device. */
  static Side remote(RemoteMachine machine) {
    return new Side("remote", machine.device(), machine::synchronize, () -> counters(machine));
  }

  private static WireCounters counters(RemoteMachine machine) {
    SessionStatistics statistics = machine.statistics();
    // Batches also carry uploads, which are data and not operations.
    return new WireCounters(
        statistics.operations(), statistics.batchBytes() - statistics.uploadedBytes());
  }

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
