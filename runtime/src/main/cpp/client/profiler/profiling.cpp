// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/profiler/profiling.h"

#include <mutex>

#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "common/python_lock.h"

namespace remora {

namespace {

// Taken before any machine's lock.
std::mutex mutex;
bool profiling = false;
std::vector<Machine*> profiled;

void add(Machine& machine) {
  machine.start_profile();
  if (machine.timeline.profiled()) profiled.push_back(&machine);
}

}  // namespace

void start_profiling() {
  auto lock = locked(mutex);
  if (profiling) {
    return;
  }
  profiling = true;
  for (auto* machine : open_machines()) add(*machine);
}

void profile_opened(Machine& machine) {
  auto lock = locked(mutex);
  if (profiling && !machine.timeline.profiled()) add(machine);
}

std::vector<MachineSlices> stop_profiling() {
  std::vector<std::pair<Machine*, Profile::Noted>> noted;
  {
    auto lock = locked(mutex);
    profiling = false;
    forget_correlations();
    for (auto* machine : profiled) noted.emplace_back(machine, machine->timeline.stop_profile());
    profiled.clear();
  }
  std::vector<MachineSlices> all;
  for (auto& [machine, each] : noted) all.push_back({machine, each.slices(machine->first_slot)});
  return all;
}

std::string settle_profiles(std::chrono::milliseconds wait) {
  auto deadline = std::chrono::steady_clock::now() + wait;
  std::vector<Machine*> machines;
  {
    auto lock = locked(mutex);
    machines = profiled;
  }
  std::string text;
  for (auto* machine : machines) {
    auto missing = machine->settle_profile(deadline);
    if (missing.full) {
      text += "machine '" + machine->name + "' has executed more than " + std::to_string(Profile::kMostOperations) +
              " operations: the times of the later ones are missing\n";
    }
    if (missing.batches > 0) {
      const auto* state = machine->timeline.hindered();
      text += "machine '" + machine->name + "' " +
              (!machine->open_for_work() ? "has ended"
               : state != nullptr        ? std::string("is ") + state
                                         : "has not answered in time") +
              ": the times of its last operations (" + std::to_string(missing.batches) + " batches) are missing\n";
    }
  }
  return text;
}

}  // namespace remora
