// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.util.concurrent.TimeUnit;

/** Counts received bytes and reports to the listener at limited intervals. */
final class ProgressMeter {
  private static final long INTERVAL = TimeUnit.MILLISECONDS.toNanos(200);

  private final DownloadListener listener;
  private final int files;
  private final long bytes;
  private final long began = System.nanoTime();
  private long told;
  private int filesDone;
  private long bytesDone;
  private long received;

  ProgressMeter(DownloadListener listener, int files, long bytes) {
    this.listener = listener;
    this.files = files;
    this.bytes = bytes;
  }

  /** Counts bytes received over the network. */
  synchronized void received(long count) {
    received += count;
    bytesDone += count;
    if (System.nanoTime() - told >= INTERVAL) {
      tell();
    }
  }

  /** Takes back bytes that must be fetched again. */
  synchronized void lost(long count) {
    bytesDone -= count;
  }

  /** Counts bytes that were there before. */
  synchronized void found(long count) {
    bytesDone += count;
  }

  /** Counts a file that was there before. */
  synchronized void foundFile(HubFile file) {
    bytesDone += file.bytes();
    filesDone++;
  }

  synchronized void fileDone() {
    filesDone++;
    tell();
  }

  synchronized void tell() {
    told = System.nanoTime();
    double seconds = Math.max(1e-3, (told - began) / 1e9);
    listener.onProgress(
        new DownloadProgress(filesDone, files, bytesDone, bytes, received / seconds));
  }
}
