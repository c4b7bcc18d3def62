// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/**
 * Receives the progress of a download: at its start, when a file is complete, at most five times a
 * second in between, and at its end. Called by one thread at a time, which waits for the call.
 */
@FunctionalInterface
public interface DownloadListener {
  void onProgress(DownloadProgress progress);

  /** Listens to nothing. */
  static DownloadListener none() {
    return progress -> {};
  }
}
