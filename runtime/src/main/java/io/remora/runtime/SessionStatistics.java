// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * Counters of a session since it was opened.
 *
 * @param operations operations recorded
 * @param batches batches closed
 * @param batchBytes bytes of the closed batches, uploads included
 * @param uploadedBytes tensor bytes sent to the node
 * @param downloadedBytes tensor bytes read from the node
 * @param blockingReads times the program waited for a value or for output metadata
 * @param planMisses calls whose output metadata had to be computed
 * @param liveStorages storages alive in the program
 * @param liveBytes their bytes
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
    long liveBytes) {}
