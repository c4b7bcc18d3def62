// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The allocator of remote storages, and the memory functions of torch.accelerator.
#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <array>

#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "client/storage.h"
#include "common/torch_version.h"

namespace remora {

namespace {

#if REMORA_TORCH >= 209
// The memory functions of torch.accelerator. The node has the numbers.
struct RemoteMemory : c10::DeviceAllocator {
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    for (int slot = 0; slot < kSlots; slot++) {
      auto* machine = open_machine_at(slot);
      if (machine != nullptr && machine->open_for_work()) {
        machine->question(Question::kEmptyCache, {static_cast<uint64_t>(machine->device_of_slot(slot))});
      }
    }
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}  // a device has one stream: nothing to record
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    auto figures = of(device);
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].current = stats.active_bytes[0].current = figures[0];
    stats.allocated_bytes[0].peak = stats.active_bytes[0].peak = figures[1];
    stats.reserved_bytes[0].current = figures[2];
    stats.reserved_bytes[0].peak = figures[3];
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}  // no accumulated statistics are kept
  void resetPeakStats(c10::DeviceIndex device) override {
    int slot = 0;
    auto& machine = machine_of(remora_device(device), &slot);
    machine.question(Question::kResetPeakMemory, {static_cast<uint64_t>(machine.device_of_slot(slot))});
  }
#if REMORA_TORCH >= 210
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    auto figures = of(device);
    return {std::max<int64_t>(0, figures[4] - figures[2]), figures[4]};
  }
#endif

 private:
  static std::array<int64_t, 5> of(c10::DeviceIndex device) {
    int slot = 0;
    auto& machine = machine_of(remora_device(device), &slot);
    return machine.memory(machine.device_of_slot(slot));
  }
};
#else
using RemoteMemory = c10::Allocator;
#endif

class RemoteAllocator final : public RemoteMemory {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    int slot = current_slot();
    auto& machine = machine_of(c10::Device(kRemora, static_cast<c10::DeviceIndex>(slot)));
    return new_memory(machine, slot, bytes);
  }
  // The data pointer is not the context, so a raw pointer cannot own the memory.
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, size_t) const override {
    raise("RemoraException", "a storage of a remote device cannot be copied as raw memory; use tensor.clone()");
  }
};
RemoteAllocator remote_allocator;
REGISTER_ALLOCATOR(kRemora, &remote_allocator);

}  // namespace

}  // namespace remora
