// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.actors.MachineInfo;
import io.remora.actors.StorageInfo;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineSession;
import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.SortedMap;

/**
 * The side that provides this program with one machine: the cluster that the program is a member
 * of, or a gateway. The methods block and throw {@link RemoraException}s. {@link #release} must be
 * the last call, whatever happened before.
 */
interface MachineHost {

  /**
   * Makes reports of the machine's progress reach {@link io.remora.progress.Activities} of this
   * JVM. Does nothing where they are made in this JVM.
   */
  default void reportProgress() {}

  /**
   * Gets the machine from its provider. Returns when the machine is ready for use.
   *
   * @param keep whether the machine outlives the program
   */
  MachineInfo open(MachineSpec spec, boolean keep);

  /**
   * Finds a machine that another program has opened. Throws a {@link
   * io.remora.runtime.MachineStateException} if no such machine is open.
   */
  MachineInfo attach();

  /** Opens a session on the machine and connects the program's end of it. */
  void connect(MachineSession session);

  /** The machine's state, devices and libtorch, as its actor knows them. */
  MachineInfo info();

  /** Whether the machine is paused once it has heard of all that the session has submitted. */
  boolean isPaused();

  /** The machine's figures by name. */
  SortedMap<String, Double> stats();

  /** What the machine's actor knows about one of the session's storages. */
  StorageInfo storage(long storage);

  /** Saves the machine's sessions and ends its node. Returns when both are done. */
  void pause();

  /** Starts a node for a paused machine and restores its sessions. Returns when both are done. */
  MachineInfo resume(MachineSpec spec);

  /**
   * Moves the machine to another node. Returns when the former node has ended.
   *
   * @param limit time limit for all of it
   */
  MachineInfo migrate(Migration to, Duration limit);

  /** Stops passing on the session's batches and answers. */
  void disconnect();

  /** Closes the session and leaves the machine open for others. */
  void leave();

  /** Gives the machine back to its provider. */
  void close();

  /**
   * Gives the machine back if this does not need a wait. Called when opening the machine has failed
   * half-way.
   */
  void abandon();

  /** Frees the resources that this host holds in the program. */
  void release();
}
