// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What torch.profiler is told of a machine: when its node has executed each operation. Nothing is kept while no profile
// runs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "client/machine/node_times.h"

namespace remora {

// What the node has executed, in nanoseconds of this process's steady clock.
struct NodeSlice {
  const char* name;
  int slot;              // of the device; of the machine's first one for what is not a call
  uint64_t correlation;  // of the profiler's operation that the thread was in; 0 if none
  bool copies;           // bytes between the program and the node, in either direction
  int64_t begin, end;
};

// The profiler's operations that the calling thread is in, the innermost last.
void push_correlation(uint64_t id);
void pop_correlation();
void forget_correlations();  // of all threads: a profile that ends does not hear of the ends of operations

// Guarded by the lock of the timeline that it belongs to.
class Profile {
 public:
  void begin();
  bool on() const { return on_; }
  // `name` must live as long as the process.
  void operation(int64_t call, const std::string& name, int slot);
  void submitted(uint64_t batch, int64_t now);
  void executed(uint64_t batch, int64_t now, std::string_view times);

  static constexpr size_t kMostOperations = 1'000'000;
  bool full() const { return noted_.operations.size() >= kMostOperations; }
  // How many batches that were submitted by that time the node has told nothing of.
  size_t unanswered(int64_t submitted) const;

  struct Operation {
    const char* name;
    int slot;
    uint64_t correlation;
  };
  struct Noted {
    std::unordered_map<int64_t, Operation> operations;  // by the call's number
    std::vector<TimedBatch> batches;
    // In the order of execution. `first_slot` is the machine's.
    std::vector<NodeSlice> slices(int first_slot);
  };
  // What was noted since begin(). Ends the profile.
  Noted end();

 private:
  bool on_ = false;
  Noted noted_;
  std::map<uint64_t, TimedBatch> under_way_;
};

}  // namespace remora
