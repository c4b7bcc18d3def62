// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.progress.Activities;
import io.remora.progress.Activity;
import io.remora.runtime.MachineSession;
import io.remora.runtime.SessionStatistics;

/**
 * Notices large uploads and downloads of a session from its counters, which it compares at each
 * report. The work that counts is a transfer if it is mostly bytes: a training's batches are many
 * operations with few bytes each, and are none. Only the thread that reports may use this class.
 */
final class Transfers implements Runnable {

  private static final long FEWEST_BYTES = 1 << 20;
  private static final long BYTES_PER_OPERATION = 64 << 10;

  private final MachineSession session;
  private final String machine;

  // At the last time at which the node had executed everything.
  private SessionStatistics rest;
  private Activity activity;

  Transfers(MachineSession session, String machine) {
    this.session = session;
    this.machine = machine;
  }

  @Override
  public void run() {
    SessionStatistics now = session.statistics();
    if (rest == null || session.lastExecuted() >= now.batches()) {
      rest = now;
      end();
      return;
    }
    long up = now.uploadedBytes() - rest.uploadedBytes();
    long down = now.downloadedBytes() - rest.downloadedBytes();
    long bytes = Math.max(up, down);
    if (bytes < FEWEST_BYTES
        || bytes < BYTES_PER_OPERATION * (now.operations() - rest.operations())) {
      end();
      return;
    }
    String name = up >= down ? "upload" : "download";
    if (activity == null || !activity.name().equals(name)) {
      end();
      activity = Activities.begin(machine, name, "bytes");
    }
    if (up >= down) {
      activity.set(up, 0);
    } else {
      // A large value is read in pieces, each the answer of a batch.
      long batches = now.batches() - rest.batches();
      long executed = Math.max(0, session.lastExecuted() - rest.batches());
      activity.set(down / Math.max(1, batches) * Math.min(executed, batches), down);
    }
  }

  /** Ends the transfer that is reported. */
  void end() {
    if (activity != null) {
      activity.close();
      activity = null;
    }
  }
}
