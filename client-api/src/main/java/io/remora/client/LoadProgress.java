// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

/**
 * How far a node is with fetching a model.
 *
 * @param filesDone complete on the node's disk, those that were there before among them
 * @param files to be there in the end; 0 as long as that is not known
 * @param bytesDone of all files, those that were there before among them
 * @param bytes of all files
 * @param bytesPerSecond over the network since the load began, on average
 */
public record LoadProgress(
    long filesDone, long files, long bytesDone, long bytes, double bytesPerSecond) {}
