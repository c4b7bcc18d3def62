// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * A storage that was created on a machine.
 *
 * @param id storage id, unique in the program's process
 * @param bytes its size
 * @param device number of the device on the machine, from 0
 */
public record StorageBirth(long id, long bytes, int device) {}
