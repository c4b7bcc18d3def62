// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/**
 * The description of a storage.
 *
 * @param id the storage's id, unique in the program
 * @param state its state
 * @param bytes its size in bytes
 * @param device index of its device on the machine
 * @param session the session that created it
 * @param reason why it was lost; empty in all other states
 */
public record StorageInfo(
    long id, StorageState state, long bytes, int device, long session, String reason)
    implements RemoraMessage {

  /** A storage that is not lost. */
  public StorageInfo(long id, StorageState state, long bytes, int device, long session) {
    this(id, state, bytes, device, session, "");
  }
}
