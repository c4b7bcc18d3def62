// SPDX-License-Identifier: AGPL-3.0-or-later
//
// How often the program has waited for its node, by cause. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace remora {

class Waits {
 public:
  enum Cause {
    kValue,     // a tensor's elements were read
    kShape,     // a result's shape depends on values
    kMetadata,  // only the node could tell a result's shape, dtype or strides
    kRoom,      // the node, or the way to it, took no more batches
    kOther,     // questions: memory, events, calls of functions
    kCauses
  };

  void count(Cause cause) { counts_[cause].fetch_add(1, std::memory_order_relaxed); }
  // The operator of a metadata wait.
  void note_operator(const std::string& full_name);
  int64_t of(Cause cause) const { return counts_[cause].load(std::memory_order_relaxed); }
  // Times the program waited for an answer: all causes but the wait for room.
  int64_t for_answers() const;
  // The operators that metadata waits were for: a line "name count" for each, in the order of the names.
  std::string operators() const;

 private:
  std::array<std::atomic<int64_t>, kCauses> counts_{};
  mutable std::mutex mutex_;
  std::map<std::string, int64_t> operators_;  // as many as libtorch has operators
};

}  // namespace remora
