// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/**
 * How far a download has come.
 *
 * @param filesDone complete in the cache, those that were there before among them
 * @param files to be there in the end
 * @param bytesDone of all files, those that were there before among them
 * @param bytes of all files
 * @param bytesPerSecond that came over the network since the download began, on average
 */
public record DownloadProgress(
    int filesDone, int files, long bytesDone, long bytes, double bytesPerSecond) {}
