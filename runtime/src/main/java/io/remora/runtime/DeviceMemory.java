// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * Memory of one of a machine's devices, in bytes, as the node counts it. On CUDA the figures are
 * those of libtorch's caching allocator, for the whole node process; on the CPU those of the
 * session's storages.
 *
 * @param allocated held by tensors
 * @param peakAllocated the most that was ever allocated, or since {@link
 *     MachineSession#resetPeakMemory}
 * @param reserved taken from the device, in use or kept for reuse
 * @param peakReserved the most that was ever reserved
 * @param total what the device has; 0 when not known
 */
public record DeviceMemory(
    long allocated, long peakAllocated, long reserved, long peakReserved, long total) {}
