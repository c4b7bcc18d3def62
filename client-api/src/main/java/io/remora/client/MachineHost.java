// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.actors.MachineInfo;
import io.remora.actors.StorageInfo;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineSession;
import io.remora.runtime.RemoraException;
import java.util.SortedMap;

/**
 * Who gives this program one machine: the cluster it is a member of, or a gateway. Blocks; errors
 * are {@link RemoraException}s. {@link #release} is the last call, whatever happened before.
 */
interface MachineHost {

  /**
   * Gets the machine from its provider; returns when it can be used.
   *
   * @param keep whether it outlives the program
   */
  MachineInfo open(MachineSpec spec, boolean keep);

  /**
   * Looks for a machine that somebody has opened; fails with a {@link
   * io.remora.runtime.MachineStateException} if it is not open.
   */
  MachineInfo attach();

  /** Opens a session on the machine and connects the program's end of it. */
  void connect(MachineSession session);

  /** The machine as its actor knows it. */
  MachineInfo info();

  /** The machine's figures by name. */
  SortedMap<String, Double> stats();

  /** What the machine's actor knows of one of the session's storages. */
  StorageInfo storage(long storage);

  /** Saves the machine's sessions and ends its node; returns when that is done. */
  void pause();

  /** Starts a node for a paused machine and brings its sessions back; returns when that is done. */
  MachineInfo resume(MachineSpec spec);

  /** The session's batches and answers go no further. */
  void disconnect();

  /** Closes the session, and leaves the machine to others. */
  void leave();

  /** Gives the machine back to its provider. */
  void close();

  /**
   * Gives the machine back if that can be done without waiting: its opening has failed half-way.
   */
  void abandon();

  /** Frees what this host holds in the program. */
  void release();
}
