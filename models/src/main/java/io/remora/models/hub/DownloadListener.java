// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/**
 * Is told how a download goes: at its begin, when a file is complete, between those at most five
 * times a second, and at its end. Called by one thread at a time, which waits meanwhile.
 */
@FunctionalInterface
public interface DownloadListener {
  void onProgress(DownloadProgress progress);

  /** Listens to nothing. */
  static DownloadListener none() {
    return progress -> {};
  }
}
