// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.time.Duration;
import java.util.Map;

/**
 * Counters of a session since it was opened.
 *
 * @param operations operations recorded
 * @param batches batches closed
 * @param batchBytes bytes of the closed batches, uploads included
 * @param uploadedBytes tensor bytes sent to the node
 * @param downloadedBytes tensor bytes read from the node
 * @param blockingReads times the program waited for an answer of the node: for a value, a shape or
 *     metadata, as below, or for another question such as {@code deviceMemory}
 * @param planMisses calls whose output metadata had to be computed
 * @param liveStorages storages alive in the program
 * @param liveBytes their bytes
 * @param valueWaits times the program waited for a tensor's elements
 * @param shapeWaits times it waited for the shape of a result that depends on values, such as that
 *     of {@code nonzero}
 * @param metadataWaits times it waited for the shape, dtype or strides of a result because only the
 *     node could tell them
 * @param roomWaits times it waited for room to send more
 * @param metadataWaitsByOperator the operators of the metadata waits, such as {@code
 *     aten::_fft_r2c}, and how often each was waited for
 * @param keptPlans predictions of results that the session keeps at present, 65,536 at most
 * @param metadataOrigins calls by the origin of their results' metadata; a call whose results were
 *     predicted before counts for the origin of that prediction
 * @param waited how long the program has waited, by cause
 */
public record SessionStatistics(
    long operations,
    long batches,
    long batchBytes,
    long uploadedBytes,
    long downloadedBytes,
    long blockingReads,
    long planMisses,
    long liveStorages,
    long liveBytes,
    long valueWaits,
    long shapeWaits,
    long metadataWaits,
    long roomWaits,
    Map<String, Long> metadataWaitsByOperator,
    long keptPlans,
    Map<MetadataOrigin, Long> metadataOrigins,
    Map<WaitCause, Duration> waited) {}
