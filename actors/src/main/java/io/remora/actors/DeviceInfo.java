// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/**
 * A device of a machine, as its node describes it.
 *
 * @param name readable name
 * @param kind libtorch's name of its type, such as {@code cpu} or {@code cuda}; see Device in
 *     link.proto
 * @param memoryBytes its memory in bytes; 0 = unknown
 */
public record DeviceInfo(String name, String kind, long memoryBytes) implements RemoraMessage {}
