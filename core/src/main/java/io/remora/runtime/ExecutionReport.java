// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;

/**
 * The changes that the execution of a batch made on the node. The wire format is in {@code wire.h}.
 *
 * @param realized storages created in the batch that are alive at its end and have memory
 * @param freed storages of earlier batches that were freed
 * @param failures operations that failed
 */
public record ExecutionReport(
    List<StorageBirth> realized, long[] freed, List<OperationFailure> failures) {

  /** Whether the report has no storages and no failures. */
  public boolean isEmpty() {
    return realized.isEmpty() && freed.length == 0 && failures.isEmpty();
  }

  /**
   * Decodes a report. The buffer's position does not change.
   *
   * @throws ProtocolException when the bytes are not a report
   */
  public static ExecutionReport decode(ByteBuffer report) {
    List<StorageBirth> realized = new ArrayList<>();
    List<OperationFailure> failures = new ArrayList<>();
    List<long[]> freed = new ArrayList<>();
    ReportReader.read(
        report,
        new ReportReader.Events() {
          @Override
          public void realized(StorageBirth storage) {
            realized.add(storage);
          }

          @Override
          public void freed(long[] ids) {
            freed.add(ids);
          }

          @Override
          public void failure(OperationFailure failure) {
            failures.add(failure);
          }
        });
    return new ExecutionReport(
        realized,
        freed.size() == 1
            ? freed.get(0)
            : freed.stream().flatMapToLong(java.util.Arrays::stream).toArray(),
        failures);
  }
}
