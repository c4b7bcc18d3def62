// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/** The state of a machine. */
public enum MachineState {
  /** The provider is getting a node. */
  PROVISIONING,
  /** The node runs; the machine is connecting to it. */
  CONNECTING,
  /** Sessions can be opened and used. */
  READY,
  /** The link broke and the machine is reconnecting. */
  RECONNECTING,
  /** The sessions are being saved; work submitted meanwhile waits. */
  PAUSING,
  /** The sessions are saved and no node runs; the next use, or resume(), starts one. */
  PAUSED,
  /** Closed, or never opened. */
  STOPPED,
  /** The machine has failed; {@link MachineInfo#reason()} has the cause. */
  FAILED
}
