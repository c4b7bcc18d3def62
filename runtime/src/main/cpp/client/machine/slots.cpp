// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/slots.h"

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "client/machine/machine.h"
#include "common/error.h"

namespace remora {

namespace {

std::array<std::atomic<Machine*>, kSlots> slots{};
std::array<std::atomic<Machine*>, kSlots> former{};  // the closed machine that had the slot last
std::mutex machines_mutex;

// Machines are never deleted: a tensor may outlive its machine, and then names the machine in its errors.
std::vector<std::unique_ptr<Machine>>& machines() {
  static auto* all = new std::vector<std::unique_ptr<Machine>>();
  return *all;
}

}  // namespace

Machine* open_machine(const char* name, int devices, size_t max_batch_bytes) {
  std::lock_guard<std::mutex> guard(machines_mutex);
  for (int first = 0; first + devices <= kSlots; first++) {
    bool free = true;
    for (int i = 0; i < devices; i++) {
      free = free && slots[first + i].load() == nullptr;
    }
    if (!free) {
      continue;
    }
    auto handle = static_cast<int64_t>(machines().size()) + 1;
    machines().push_back(std::make_unique<Machine>(handle, name, first, devices, max_batch_bytes));
    auto* machine = machines().back().get();
    for (int i = 0; i < devices; i++) {
      slots[first + i].store(machine, std::memory_order_release);
    }
    return machine;
  }
  return nullptr;
}

void release_slots(Machine& machine) {
  std::lock_guard<std::mutex> guard(machines_mutex);
  for (int slot = 0; slot < kSlots; slot++) {
    if (slots[slot].load() == &machine) {
      former[slot].store(&machine, std::memory_order_release);
      slots[slot].store(nullptr, std::memory_order_release);
    }
  }
}

std::vector<Machine*> open_machines() {
  std::lock_guard<std::mutex> guard(machines_mutex);
  std::vector<Machine*> open;
  for (auto& each : machines()) {
    if (each->open_for_work()) open.push_back(each.get());
  }
  return open;
}

Machine* find_machine(int64_t handle) {
  std::lock_guard<std::mutex> guard(machines_mutex);
  return handle >= 1 && handle <= static_cast<int64_t>(machines().size()) ? machines()[handle - 1].get() : nullptr;
}

void lock_machines() {
  machines_mutex.lock();
  for (auto& each : machines()) {
    each->state_.lock();
    each->timeline.lock();
  }
}
void unlock_machines() {
  for (auto& each : machines()) {
    each->timeline.unlock();
    each->state_.unlock();
  }
  machines_mutex.unlock();
}

int open_devices() {
  int count = 0;
  for (auto& slot : slots) {
    count += slot.load(std::memory_order_acquire) != nullptr;
  }
  return count;
}

int slots_in_use() {
  int count = kSlots;
  while (count > 0 && slots[count - 1].load(std::memory_order_acquire) == nullptr) {
    count--;
  }
  return count;
}

Machine* open_machine_at(int slot) { return slots[slot].load(std::memory_order_acquire); }

Machine& last_machine_of(int slot) {
  auto* closed = slot < kSlots && slots[slot].load(std::memory_order_acquire) == nullptr
                     ? former[slot].load(std::memory_order_acquire)
                     : nullptr;
  return closed != nullptr ? *closed : machine_of(c10::Device(kRemora, static_cast<c10::DeviceIndex>(slot)), nullptr);
}

Machine& machine_of(c10::Device device, int* slot) {
  int index = device.has_index() ? device.index() : current_slot();
  auto* machine = index < kSlots ? slots[index].load(std::memory_order_acquire) : nullptr;
  if (machine == nullptr) {
    auto* closed = index < kSlots ? former[index].load(std::memory_order_acquire) : nullptr;
    if (closed != nullptr) {
      raise("StaleReferenceException", "device remora:" + std::to_string(index) + " was machine '" + closed->name +
                                           "', which is closed; its tensors and device cannot be used any more");
    }
    raise("MachineStateException", "no machine is open on device remora:" + std::to_string(index) +
                                       "; open one with RemoteMachine.open(provider) and use machine.device()");
  }
  if (slot != nullptr) {
    *slot = index;
  }
  return *machine;
}

}  // namespace remora
