// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>

#include <cstddef>

namespace accelerator {

// The type under which libtorch knows the simulated devices: one that no hardware of this process uses.
constexpr auto kType = c10::DeviceType::MTIA;
constexpr int kMostDevices = 8;

// The number of simulated devices: REMORA_SIMULATED_DEVICES, 1 to 8, by default 8.
int device_count();

// Where kernels see the memory that device tensors have at this address. The host cannot read or write the address
// itself; it is valid in no other way. Throws if the address is not device memory.
void* kernel_view(const void* device_pointer);

// The allocator of device memory. A freed block is used again by allocations of the same stream alone, until the device
// is short of memory: then all streams are waited for. New memory is filled with values that no kernel has written.
c10::DeviceAllocator* device_allocator();

// The allocator of host memory that copies may use while the host continues.
c10::Allocator* pinned_allocator();
bool is_pinned(const void* pointer);

}  // namespace accelerator
