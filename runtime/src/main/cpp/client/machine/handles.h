// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Numbers of a machine's generators or events. They are never reused, and only a limited number is alive at one time.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "common/error.h"

namespace remora {

// Thread-safe.
class Handles {
 public:
  // `what`: what has the numbers, for the error; `most`: how many may be alive.
  Handles(const char* what, uint64_t most) : what_(what), most_(static_cast<int64_t>(most)) {}

  // Throws if too many are alive; release() makes room.
  int64_t next(const std::string& machine) {
    if (alive_.fetch_add(1, std::memory_order_relaxed) >= most_) {
      release();
      raise("RemoraException", "machine '" + machine + "' already has " + std::to_string(most_) + " " + what_ +
                                   ", the most that it can have at one time; delete some");
    }
    return last_.fetch_add(1, std::memory_order_relaxed) + 1;
  }
  void release() { alive_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  const char* const what_;
  const int64_t most_;
  std::atomic<int64_t> last_{0};
  std::atomic<int64_t> alive_{0};
};

}  // namespace remora
