// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Whether a machine can be used, and if not, why. A machine is open, may fail, and is closed in the end.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

namespace remora {

// Thread-safe. Its lock may be taken with or without the machine's.
class MachineState {
 public:
  explicit MachineState(const std::string& machine) : machine_(machine) {}

  bool open() const { return state_.load(std::memory_order_acquire) == kOpen; }
  bool closed() const { return state_.load(std::memory_order_acquire) == kClosed; }
  // Whether the program knows that the machine has failed.
  bool failure_told() const { return failure_told_.load(std::memory_order_acquire); }
  // Throws if the machine is not open. The program gets the error, which names the storage if it is not 0.
  void check_usable(int64_t storage);
  // The same for a thread that sends what the program has recorded. The program does not get the error.
  void check_carries();
  bool fail(const std::string& message);  // false if the machine is not open any more
  void close();

  // To be called around a fork.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  enum State { kOpen, kFailed, kClosed };
  [[noreturn]] void throw_unusable(int state, int64_t storage);

  const std::string& machine_;  // its name
  std::atomic<int> state_{kOpen};
  std::atomic<bool> failure_told_{false};
  std::mutex mutex_;
  std::string failure_;  // guarded by mutex_
};

}  // namespace remora
