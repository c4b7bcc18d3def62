// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.progress.Activities;
import io.remora.progress.Progress;
import io.remora.runtime.MachineSession;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;

/** Who is told of a machine's progress: the program's listener, and its terminal. */
final class MachineProgress implements AutoCloseable {

  private final String machine;
  private final List<Activities.Listening> listening = new ArrayList<>();
  private Transfers transfers;
  private Activities.Listening watching;

  /**
   * Begins to report.
   *
   * @param listener the program's; null for none
   */
  MachineProgress(String machine, Consumer<Progress> listener, ClientSettings settings) {
    this.machine = machine;
    if (listener != null) {
      listening.add(Activities.listen(machine, listener));
    }
    if (settings.showsProgress()) {
      listening.add(Activities.listen(machine, new ProgressBar(System.err)));
    }
  }

  /** Whether anybody is told. */
  boolean isOn() {
    return !listening.isEmpty();
  }

  /** Reports transfers of this session, too. */
  void watch(MachineSession session) {
    if (isOn()) {
      transfers = new Transfers(session, machine);
      watching = Activities.listen(machine, progress -> {}, transfers);
    }
  }

  /** Returns when the session is no longer used. It can then be closed. */
  void unwatch() {
    if (watching != null) {
      watching.close();
      transfers.end();
      watching = null;
    }
  }

  @Override
  public void close() {
    unwatch();
    listening.forEach(Activities.Listening::close);
  }
}
