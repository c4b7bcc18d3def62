// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

/**
 * The progress of a node that fetches a model.
 *
 * @param filesDone files that are complete on the node's disk, including those that were there
 *     before
 * @param files number of files to fetch in all; 0 until it is known
 * @param bytesDone bytes on the node's disk, including those that were there before
 * @param bytes size of all files
 * @param bytesPerSecond average rate over the network since the load began
 */
public record LoadProgress(
    long filesDone, long files, long bytesDone, long bytes, double bytesPerSecond) {}
