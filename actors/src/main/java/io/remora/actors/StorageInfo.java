// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/**
 * What is known of a storage.
 *
 * @param id its number, unique in the program
 * @param state where it is in its life
 * @param bytes its size
 * @param device index of the machine's device that it is on
 * @param session the session that made it
 * @param reason what it was lost for; empty in all other states
 */
public record StorageInfo(
    long id, StorageState state, long bytes, int device, long session, String reason)
    implements RemoraMessage {

  /** A storage that is not lost. */
  public StorageInfo(long id, StorageState state, long bytes, int device, long session) {
    this(id, state, bytes, device, session, "");
  }
}
