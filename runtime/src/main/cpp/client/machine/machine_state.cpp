// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/machine_state.h"

#include "common/error.h"

namespace remora {

void MachineState::check_usable(int64_t storage) {
  auto state = state_.load(std::memory_order_acquire);
  if (state != kOpen) {
    if (state == kFailed) failure_told_.store(true, std::memory_order_release);
    throw_unusable(state, storage);
  }
}

void MachineState::check_carries() {
  auto state = state_.load(std::memory_order_acquire);
  if (state != kOpen) throw_unusable(state, 0);
}

void MachineState::throw_unusable(int state, int64_t storage) {
  if (state == kClosed) {
    raise(storage ? "StaleReferenceException" : "MachineStateException",
          storage ? "storage " + std::to_string(storage) + " was on machine '" + machine_ +
                        "', which is closed; its tensors cannot be used any more"
                  : "machine '" + machine_ + "' is closed");
  }
  std::lock_guard<std::mutex> guard(mutex_);
  throw_error(failure_);
}

bool MachineState::fail(const std::string& message) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (state_.load() != kOpen) {
    return false;
  }
  failure_ = message;
  state_.store(kFailed, std::memory_order_release);
  return true;
}

void MachineState::close() {
  std::lock_guard<std::mutex> guard(mutex_);
  state_.store(kClosed, std::memory_order_release);
}

}  // namespace remora
