// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/** Where a machine is in its life. */
public enum MachineState {
  /** The provider is getting a node. */
  PROVISIONING,
  /** The node is there; the link to it is being made. */
  CONNECTING,
  /** Sessions can be opened and used. */
  READY,
  /** The link was lost and is being made again. */
  RECONNECTING,
  /** The sessions are being saved; what is submitted meanwhile waits. */
  PAUSING,
  /** The sessions are saved and no node runs; the next use, or resume(), starts one. */
  PAUSED,
  /** Closed, or never opened. */
  STOPPED,
  /** Something went wrong; the reason says what. */
  FAILED
}
