// SPDX-License-Identifier: AGPL-3.0-or-later
//
// How far a machine's batches have got: the numbers of the last one submitted and of the last one executed.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "client/machine/machine_state.h"

namespace remora {

// Thread-safe. Batches are submitted under the machine's lock.
class BatchProgress {
 public:
  uint64_t submitted() const { return submitted_.load(std::memory_order_acquire); }
  uint64_t executed() const { return executed_.load(std::memory_order_acquire); }
  std::chrono::steady_clock::time_point executed_at() const;  // when the last acknowledgement arrived
  void note_submitted(uint64_t batch) { submitted_.store(batch, std::memory_order_release); }
  void note_executed(uint64_t batch);  // the node has executed every batch up to this one
  // Waits until the node has executed every batch, or the machine is no longer open. One thread at a time.
  void await_idle(std::chrono::steady_clock::time_point deadline, const MachineState& machine);
  void wake();  // to be called when the machine is no longer open

 private:
  std::atomic<uint64_t> submitted_{0};
  std::atomic<uint64_t> executed_{0};
  std::atomic<int64_t> executed_at_{0};   // in steady_clock's ticks
  std::atomic<bool> awaits_idle_{false};  // a thread waits for idle_
  std::mutex mutex_;
  std::condition_variable idle_;
};

}  // namespace remora
