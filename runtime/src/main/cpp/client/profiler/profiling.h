// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A profile of all machines of the process, for torch.profiler: on all machines that are open when it starts, and on
// those that the program opens meanwhile.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "client/machine/profile.h"

namespace remora {

class Machine;

struct MachineSlices {
  const Machine* machine;
  std::vector<NodeSlice> slices;
};

// These are thread-safe, and wait for no node.
void start_profiling();
std::vector<MachineSlices> stop_profiling();  // of all machines that were open meanwhile
void profile_opened(Machine& machine);        // the program has opened it

// Sends what is recorded on all profiled machines and waits until their nodes have told when they have executed it, for
// so long at most. Returns what will be missing, a line of text for each machine that lacks something.
std::string settle_profiles(std::chrono::milliseconds wait);

}  // namespace remora
