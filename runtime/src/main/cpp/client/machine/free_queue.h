// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What the program has dropped and the node is still to free: storages, generators and events.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "client/machine/batch_writer.h"
#include "common/wire.h"

namespace remora {

// Thread-safe: its lock is held for moments only, so any thread may drop a tensor at any time, with or without the
// machine's lock.
class FreeQueue {
 public:
  void add(StorageContext* storage);  // takes ownership
  void add(Record record, int64_t handle);
  bool empty() const { return !has_frees_.load(std::memory_order_acquire); }
  // Records frees of everything in the queue, but of a limited number of storages at once. The caller holds the
  // machine's lock.
  void record(BatchWriter& open);
  void abandon();  // forgets everything

 private:
  std::mutex mutex_;
  std::vector<StorageContext*> storages_;
  std::vector<std::pair<Record, int64_t>> handles_;
  std::atomic<bool> has_frees_{false};
};

}  // namespace remora
