// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/** Where a storage is in its life. */
public enum StorageState {
  /** Known to the node, without memory: nothing has used it yet. */
  LAZY,
  /** Has memory on the node. */
  REALIZED,
  /** Saved with its paused machine: has memory again when the machine resumes. */
  OFFLOADED,
  /** Its machine has lost its node: gone, against the program's will. */
  LOST,
  /** Gone. */
  FREED
}
