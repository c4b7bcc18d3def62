// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/** The state of a storage. */
public enum StorageState {
  /** Known to the node but without memory, since no operation has used it yet. */
  LAZY,
  /** Has memory on the node. */
  REALIZED,
  /** Saved with its paused machine. It has memory again after the machine resumes. */
  OFFLOADED,
  /** Lost with the machine's node. */
  LOST,
  /** Freed by the program. */
  FREED
}
