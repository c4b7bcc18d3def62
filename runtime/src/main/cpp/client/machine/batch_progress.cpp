// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/batch_progress.h"

namespace remora {

using std::chrono::steady_clock;

steady_clock::time_point BatchProgress::executed_at() const {
  return steady_clock::time_point(steady_clock::duration(executed_at_.load(std::memory_order_relaxed)));
}

void BatchProgress::note_executed(uint64_t batch) {
  executed_at_.store(steady_clock::now().time_since_epoch().count(), std::memory_order_relaxed);
  executed_.store(batch, std::memory_order_seq_cst);
  if (awaits_idle_.load(std::memory_order_seq_cst) && batch >= submitted()) {
    wake();
  }
}

void BatchProgress::await_idle(steady_clock::time_point deadline, const MachineState& machine) {
  std::unique_lock<std::mutex> lock(mutex_);
  awaits_idle_.store(true, std::memory_order_seq_cst);
  idle_.wait_until(lock, deadline,
                   [&] { return executed_.load(std::memory_order_seq_cst) >= submitted() || !machine.open(); });
  awaits_idle_.store(false, std::memory_order_relaxed);
}

void BatchProgress::wake() {
  std::lock_guard<std::mutex> guard(mutex_);
  idle_.notify_all();
}

}  // namespace remora
