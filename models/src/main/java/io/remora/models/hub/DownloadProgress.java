// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/**
 * The progress of a download.
 *
 * @param filesDone files that are complete in the cache, including those that were there before
 * @param files number of files in all
 * @param bytesDone bytes in the cache, including those that were there before
 * @param bytes size of all files
 * @param bytesPerSecond average rate over the network since the download began
 */
public record DownloadProgress(
    int filesDone, int files, long bytesDone, long bytes, double bytesPerSecond) {}
