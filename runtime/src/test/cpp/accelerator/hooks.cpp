// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What libtorch asks about the devices, and their random generators: those of the CPU under another device.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/MTIAHooksInterface.h>

#include <deque>

#include "generator.h"
#include "memory.h"
#include "streams.h"

namespace accelerator {

Generator::Generator(c10::DeviceIndex device)
    : Generator(device, at::make_generator<at::CPUGeneratorImpl>(c10::default_rng_seed_val)) {}
Generator::Generator(c10::DeviceIndex device, at::Generator inner)
    : GeneratorImpl({kType, device}, c10::DispatchKeySet(c10::DispatchKey::MTIA)), inner_(std::move(inner)) {}

void Generator::set_current_seed(uint64_t seed) { inner_.set_current_seed(seed); }
void Generator::set_offset(uint64_t offset) { inner_.set_offset(offset); }
uint64_t Generator::get_offset() const { return inner_.get_offset(); }
uint64_t Generator::current_seed() const { return inner_.current_seed(); }
uint64_t Generator::seed() { return inner_.seed(); }
void Generator::set_state(const c10::TensorImpl& state) { inner_.unsafeGetGeneratorImpl()->set_state(state); }
c10::intrusive_ptr<c10::TensorImpl> Generator::get_state() const {
  return inner_.unsafeGetGeneratorImpl()->get_state();
}
Generator* Generator::clone_impl() const { return new Generator(device().index(), inner_.clone()); }

const at::Generator& default_generator(c10::DeviceIndex device) {
  static auto* all = [] {
    auto* list = new std::deque<at::Generator>;
    for (int i = 0; i < device_count(); i++) {
      list->push_back(at::make_generator<Generator>(static_cast<c10::DeviceIndex>(i)));
    }
    return list;
  }();
  return all->at(device < 0 ? current_device() : device);
}

}  // namespace accelerator

namespace at {

// The registry looks for a class of this name in this namespace.
struct MTIAHooks final : MTIAHooksInterface {
  explicit MTIAHooks(MTIAHooksArgs) {}

  bool hasMTIA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  std::string showConfig() const override { return "simulated devices"; }
  DeviceIndex deviceCount() const override { return static_cast<DeviceIndex>(accelerator::device_count()); }
  DeviceIndex getDeviceCount() const override { return deviceCount(); }
  void deviceSynchronize(DeviceIndex device) const override { accelerator::synchronize_device(device); }
  void setCurrentDevice(DeviceIndex device) const override { accelerator::set_current_device(device); }
  DeviceIndex getCurrentDevice() const override { return accelerator::current_device(); }
  DeviceIndex exchangeDevice(DeviceIndex device) const override {
    auto before = accelerator::current_device();
    accelerator::set_current_device(device);
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override { return exchangeDevice(device); }
  c10::Stream getCurrentStream(DeviceIndex device) const override { return accelerator::current_stream(device); }
  bool isPinnedPtr(const void* pointer) const override { return accelerator::is_pinned(pointer); }
  Allocator* getPinnedMemoryAllocator() const override { return accelerator::pinned_allocator(); }
  void emptyCache() const override { accelerator::device_allocator()->emptyCache(); }
  const Generator& getDefaultGenerator(DeviceIndex device) const override {
    return accelerator::default_generator(device);
  }
  Generator getNewGenerator(DeviceIndex device) const override {
    return make_generator<accelerator::Generator>(device < 0 ? accelerator::current_device() : device);
  }
};

REGISTER_MTIA_HOOKS(MTIAHooks)

}  // namespace at
