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
 */
public record StorageInfo(long id, StorageState state, long bytes, int device, long session)
    implements RemoraMessage {}
