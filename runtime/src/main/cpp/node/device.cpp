// SPDX-License-Identifier: AGPL-3.0-or-later
#include "node/device.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include "common/cuda_driver.h"
#include "common/torch_version.h"

namespace remora {

namespace {

const at::AcceleratorHooksInterface& hooks(c10::DeviceType type) {
  return at::globalContext().getAcceleratorHooksInterface(type);
}

}  // namespace

c10::DeviceType accelerator_type(const std::string& name) {
  auto type = c10::Device(name).type();
  // Remora's own devices have the type PrivateUse1 in every process that has loaded the core.
  TORCH_CHECK(type != c10::kPrivateUse1 && type != c10::kCPU, "a node cannot compute on devices of type ", name);
  hooks(type);  // throws if the type is no accelerator
  return type;
}

int device_count(c10::DeviceType type) { return hooks(type).deviceCount(); }

std::string device_name(c10::Device device) {
  if (device.is_cuda()) {
    char name[256] = "";
    const auto& driver = CudaDriver::get();
    int handle = 0;
    if (driver.device_name != nullptr && driver.device_get(&handle, device.index()) == 0 &&
        driver.device_name(name, sizeof name, handle) == 0) {
      return name;
    }
  }
  return device.str();
}

int64_t device_total_memory(c10::Device device) {
  if (device.is_cuda()) {  // the driver knows without a context
    const auto& driver = CudaDriver::get();
    int handle = 0;
    size_t bytes = 0;
    bool known = driver.device_memory != nullptr && driver.device_get(&handle, device.index()) == 0 &&
                 driver.device_memory(&bytes, handle) == 0;
    return known ? static_cast<int64_t>(bytes) : -1;
  }
#if REMORA_TORCH >= 210
  open_device(device.str());
  return static_cast<int64_t>(c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index()).second);
#else
  return -1;
#endif
}

c10::Device open_device(const std::string& name) {
  c10::Device device(name);
  if (device.is_cpu()) {
    return device;
  }
  auto type = accelerator_type(c10::DeviceTypeName(device.type(), true));
  at::globalContext().lazyInitDevice(type);
  if (!device.has_index()) device.set_index(0);
  TORCH_CHECK(device.index() < device_count(type), "there is no device ", device, ": libtorch reports ",
              device_count(type));
  return device;
}

void synchronize(c10::Device device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

at::Generator new_generator(c10::Device device) {
  return device.is_cpu() ? at::make_generator<at::CPUGeneratorImpl>(c10::default_rng_seed_val)
                         : hooks(device.type()).getNewGenerator(device.index());
}

// at::empty would ask the process's accelerator, which in the program's process is Remora itself.
at::Tensor pinned_bytes(c10::Device accelerator, int64_t bytes) {
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, hooks(accelerator.type()).getPinnedMemoryAllocator(),
                       false);
  return at::empty({0}, at::TensorOptions().dtype(at::kByte)).set_(storage, 0, {bytes}, {1});
}

// libtorch has an interface for the allocators of accelerators since 2.9, which reports the device's size since 2.10.
#if REMORA_TORCH >= 209
DeviceMemory device_use(c10::Device device) {
  auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  const auto& allocated = stats.allocated_bytes[0];
  const auto& reserved = stats.reserved_bytes[0];
  return {allocated.current, allocated.peak, reserved.current, reserved.peak, 0};
}
DeviceMemory device_memory(c10::Device device) {
  auto memory = device_use(device);
#if REMORA_TORCH >= 210
  memory.total = static_cast<int64_t>(c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index()).second);
#endif
  return memory;
}
uint64_t available_memory(c10::Device device) {
#if REMORA_TORCH >= 210
  if (!device.is_cpu()) {
    auto* cache = c10::getDeviceAllocator(device.type());
    auto stats = cache->getDeviceStats(device.index());
    return cache->getMemoryInfo(device.index()).first +
           static_cast<uint64_t>(stats.reserved_bytes[0].current - stats.allocated_bytes[0].current);
  }
#endif
  return 0;
}
void empty_cache(c10::Device device) { c10::getDeviceAllocator(device.type())->emptyCache(); }
void reset_peak_memory(c10::Device device) { c10::getDeviceAllocator(device.type())->resetPeakStats(device.index()); }
#else
DeviceMemory device_memory(c10::Device device) { return device_use(device); }
DeviceMemory device_use(c10::Device device) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "libtorch " TORCH_VERSION " does not report the memory of device ", device,
                              "; use 2.9 or newer");
}
uint64_t available_memory(c10::Device) { return 0; }
void empty_cache(c10::Device device) { device_memory(device); }
void reset_peak_memory(c10::Device device) { device_memory(device); }
#endif

}  // namespace remora
