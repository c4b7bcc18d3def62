// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * Memory of one of a machine's devices, in bytes, as the node counts it. On an accelerator the
 * figures are those of libtorch's caching allocator, for the whole node process; on the CPU those
 * of the session's storages.
 *
 * @param allocated bytes that tensors use
 * @param peakAllocated the peak of {@code allocated} since the start or {@link
 *     MachineSession#resetPeakMemory}
 * @param reserved bytes taken from the device, in use or kept for reuse
 * @param peakReserved the peak of {@code reserved} since the same time
 * @param total the device's memory; 0 when not known
 */
public record DeviceMemory(
    long allocated, long peakAllocated, long reserved, long peakReserved, long total) {}
