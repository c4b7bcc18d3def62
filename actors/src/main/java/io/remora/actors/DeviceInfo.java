// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/**
 * A device of a machine, as its node describes it.
 *
 * @param name readable name
 * @param kind {@code cuda} or {@code cpu}
 * @param memoryBytes its memory in bytes; 0 = unknown
 */
public record DeviceInfo(String name, String kind, long memoryBytes) implements RemoraMessage {}
