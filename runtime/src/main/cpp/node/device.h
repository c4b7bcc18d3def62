// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What the node asks of the backend of a device: the CPU, or any accelerator that libtorch or a loaded library has. What
// is CUDA's alone is in shared_memory.h and cuda_driver.h.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>

namespace remora {

// The type with this name, such as "cuda". Throws if libtorch has no accelerator of that name.
c10::DeviceType accelerator_type(const std::string& name);
// The number of devices that the backend reports; 0 without a backend.
int device_count(c10::DeviceType type);
// The name as the device's driver has it, otherwise libtorch's name of the device.
std::string device_name(c10::Device device);
// Bytes; -1 if unknown.
int64_t device_total_memory(c10::Device device);

// The device of this name, ready for use, with its index if it is not the CPU. Throws if there is none.
c10::Device open_device(const std::string& name);
// Waits until the device has finished its work.
void synchronize(c10::Device device);
at::Generator new_generator(c10::Device device);
// Bytes of host memory from which an accelerator copies without a detour.
at::Tensor pinned_bytes(c10::Device accelerator, int64_t bytes);

// ---- of the allocator of an accelerator. On libtorch before 2.9 all but available_memory() throw.

struct DeviceMemory {
  int64_t allocated;
  int64_t peak_allocated;
  int64_t reserved;
  int64_t peak_reserved;
  int64_t total;  // 0 if unknown
};
DeviceMemory device_memory(c10::Device device);
// The same without the total, which may cost a context on the device. For any thread.
DeviceMemory device_use(c10::Device device);
// The memory that the driver has free plus the memory that the allocator keeps for reuse; 0 if unknown.
uint64_t available_memory(c10::Device device);
void empty_cache(c10::Device device);
void reset_peak_memory(c10::Device device);

}  // namespace remora
