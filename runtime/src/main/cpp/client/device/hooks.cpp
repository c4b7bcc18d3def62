// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The backend functions that libtorch calls besides kernels.
#include <ATen/ATen.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "client/device/generator.h"
#include "client/device/registration.h"
#include "client/machine/slots.h"
#include "client/storage.h"
#include "common/torch_version.h"

namespace remora {

namespace {

using c10::impl::VirtualGuardImpl;

struct RemoteHooks final : at::PrivateUse1HooksInterface {
  // Part of the interface since libtorch 2.7.
  bool isBuilt() const { return true; }
  bool isAvailable() const { return open_devices() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  // The number of indices that libtorch iterates over, for example to seed every generator.
  c10::DeviceIndex deviceCount() const override { return static_cast<c10::DeviceIndex>(slots_in_use()); }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    VirtualGuardImpl(kRemora).setDevice(remora_device(index));
  }
  c10::DeviceIndex getCurrentDevice() const override { return static_cast<c10::DeviceIndex>(current_slot()); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return VirtualGuardImpl(kRemora).exchangeDevice(remora_device(index)).index();
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchangeDevice(index); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return at::getCPUAllocator(); }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::Device getDeviceFromPtr(void* data) const override { return device_of_address(data); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(index < 0 ? current_slot() : index);
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return new_generator(index < 0 ? current_slot() : index);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    resize_storage(storage.unsafeGetStorageImpl(), bytes);
  }
};

}  // namespace

void register_hooks() {
  static auto* hooks = new RemoteHooks();  // libtorch uses it until the process ends
  at::RegisterPrivateUse1HooksInterface(hooks);
#if REMORA_TORCH < 207  // torch.Generator does not ask the hooks there
  at::_GeneratorRegister([](c10::DeviceIndex index) { return hooks->getNewGenerator(index); });
#endif
}

}  // namespace remora
