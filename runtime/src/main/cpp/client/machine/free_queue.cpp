// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/free_queue.h"

#include "client/storage.h"

namespace remora {

namespace {

constexpr ptrdiff_t kFreesAtOnce = 32 * 1024;

}  // namespace

void FreeQueue::add(StorageContext* storage) {
  std::lock_guard<std::mutex> guard(mutex_);
  storages_.push_back(storage);
  has_frees_.store(true, std::memory_order_release);
}

void FreeQueue::add(Record record, int64_t handle) {
  std::lock_guard<std::mutex> guard(mutex_);
  handles_.emplace_back(record, handle);
  has_frees_.store(true, std::memory_order_release);
}

void FreeQueue::record(BatchWriter& open) {
  std::vector<StorageContext*> storages;
  std::vector<std::pair<Record, int64_t>> handles;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (storages_.size() <= kFreesAtOnce) {
      storages.swap(storages_);
    } else {
      storages.assign(storages_.end() - kFreesAtOnce, storages_.end());
      storages_.resize(storages_.size() - kFreesAtOnce);
    }
    handles.swap(handles_);
    has_frees_.store(!storages_.empty(), std::memory_order_release);
  }
  open.write_frees(storages);
  for (auto* context : storages) delete context;
  for (auto [record, handle] : handles) {
    open.code(record);
    open.varint(handle);
  }
  // Keep the list's memory for the next use.
  storages.clear();
  std::lock_guard<std::mutex> guard(mutex_);
  if (storages_.empty() && storages_.capacity() < storages.capacity()) {
    storages_.swap(storages);
  }
}

void FreeQueue::abandon() {
  std::vector<StorageContext*> leftover;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    leftover.swap(storages_);
    handles_.clear();
  }
  for (auto* context : leftover) {
    delete context;
  }
}

}  // namespace remora
