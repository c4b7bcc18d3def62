// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The device guard: the current device, its one stream, its events.
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "client/device/event.h"
#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "common/torch_version.h"

namespace remora {

namespace {

thread_local int current = 0;

// A machine's operations are recorded in one order, so a device has one stream: the default stream.
struct RemoteGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kRemora; }
  c10::Device exchangeDevice(c10::Device device) const override {
    auto previous = remora_device(current);
    setDevice(device);
    return previous;
  }
  c10::Device getDevice() const override { return remora_device(current); }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() < kSlots, "device index ", static_cast<int>(device.index()),
                " is out of range: there are ", kSlots, " remora device slots");
    if (device.has_index()) {
      current = device.index();
    }
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) {
      current = device.index();
    }
  }
  // noexcept, because libtorch 2.6 requires it.
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  bool queryStream(const c10::Stream& stream) const override {
    auto& machine = machine_of(stream.device());
    machine.flush();
    return machine.progress.executed() >= machine.progress.submitted();
  }
  void synchronizeStream(const c10::Stream& stream) const override { synchronizeDevice(stream.device_index()); }
  void synchronizeDevice(c10::DeviceIndex index) const override {
    int slot = 0;
    auto& machine = machine_of(remora_device(index), &slot);
    machine.question(Question::kSynchronize, {static_cast<uint64_t>(machine.device_of_slot(slot))});
  }

  // An event is a record in the operation stream; the node notes the time when it reaches the record.
  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex index, c10::EventFlag) const override {
    auto device = remora_device(index < 0 ? stream.device_index() : index);
    auto& machine = machine_of(device);
    if (*event == nullptr) {
      *event = new RemoteEvent(machine);
    }
    record_event(*static_cast<RemoteEvent*>(*event), machine.device_of_slot(device.index()));
  }
  void block(void* event, const c10::Stream& stream) const override {
    // Work on one machine is in order anyway; work for another machine waits here for the event.
    auto* mark = static_cast<RemoteEvent*>(event);
    if (mark != nullptr && mark->machine != &machine_of(stream.device())) {
      synchronizeEvent(event);
    }
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || event_happened(*static_cast<RemoteEvent*>(event));
  }
  void synchronizeEvent(void* event) const override {
    if (auto* mark = static_cast<RemoteEvent*>(event)) {
      mark->machine->question(Question::kSynchronizeEvent, {static_cast<uint64_t>(mark->id)});
    }
  }
  double elapsedTime(void* first, void* second, const c10::DeviceIndex) const override {
    TORCH_CHECK(first != nullptr && second != nullptr, "both events must have been recorded before the time between ",
                "them can be measured");
    return event_elapsed(*static_cast<RemoteEvent*>(first), *static_cast<RemoteEvent*>(second));
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<RemoteEvent*>(event);
  }
  // Autograd's engine starts a thread for each device counted here and sizes its tables by this number, so the number
  // must not grow after the first backward. Therefore all slots count, open or not.
  c10::DeviceIndex deviceCount() const noexcept override { return kSlots; }
#if REMORA_TORCH >= 210
  c10::DeviceCapability getDeviceCapability(c10::Device) const override {
    c10::DeviceCapability all;
    auto& types = all.capability_data.supported_scalar_types;
    types.has_QInt8 = types.has_QUInt8 = types.has_QInt32 = 0;
    return all;
  }
#endif
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, RemoteGuard);

}  // namespace

int current_slot() { return current; }

}  // namespace remora
