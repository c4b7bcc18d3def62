// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Device slots: which machine each index of a remora device belongs to, and all machines of the process.
#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace remora {

class Machine;

constexpr auto kRemora = c10::DeviceType::PrivateUse1;
// libtorch's autograd engine starts a thread for each device that it can see, so the number is kept small.
constexpr int kSlots = 32;

inline c10::Device remora_device(int slot) { return {kRemora, static_cast<c10::DeviceIndex>(slot)}; }

Machine* open_machine(const char* name, int devices, size_t max_batch_bytes);  // nullptr if no slots are free
std::vector<Machine*> open_machines();
Machine* find_machine(int64_t handle);  // nullptr if unknown
void release_slots(Machine& machine);   // later machines may have them
// To be called around a fork: the locks that Machine::fail() and find_machine() take.
void lock_machines();
void unlock_machines();
// The open machine that a device belongs to. "remora" without an index is the thread's current device. Throws if there
// is none.
Machine& machine_of(c10::Device device, int* slot = nullptr);
Machine* open_machine_at(int slot);  // nullptr if none is open
Machine& last_machine_of(int slot);  // may be closed; throws if the slot never had a machine
int open_devices();
int slots_in_use();  // one more than the highest slot of an open device; closed machines leave gaps below
int current_slot();

}  // namespace remora
