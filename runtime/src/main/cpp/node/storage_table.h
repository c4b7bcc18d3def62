// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A session's storages on the node, by number.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/flat_hash_map.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace remora {

// The reason why values are missing. All storages that a failed operation should have written share it.
struct Failure {
  uint64_t number;
  uint64_t call;  // its number in the session; 0 if the failed record is no operator call
  std::string operation;
  std::string error;  // PyTorch's class of the error; empty if the error is the node's own
  std::string message;
  std::vector<std::string> inputs;
  bool told = false;  // the program has thrown it
};

struct NodeStorage {
  c10::Storage memory;  // undefined while lazy; see keep()
  at::Tensor tensor;    // the one made last on this memory: the next record often names the same one
  uint64_t bytes = 0;
  uint32_t device = 0;
  uint64_t accounted = 0;            // bytes counted as allocated on its device
  bool reported = false;             // the program knows that it is realized
  std::shared_ptr<Failure> failure;  // if set, the values are missing
  // There were values before the failure. Once the program has been told of the failure, the storage holds values
  // again: whatever the failed operator left, as on a local device.
  bool has_values = false;
  uint64_t rewritten = 0;  // bytes, from the start, that uploads have replaced since the failure

  void keep(c10::Storage other) {
    memory = std::move(other);
    tensor.reset();
  }
};

// Not thread-safe. A storage stays at its address until it is erased.
class StorageTable {
 public:
  StorageTable() = default;
  StorageTable(const StorageTable&) = delete;
  StorageTable& operator=(const StorageTable&) = delete;
  ~StorageTable() {
    for (auto& [id, storage] : by_id_) delete storage;
  }

  size_t size() const { return by_id_.size(); }
  // nullptr if there is none.
  NodeStorage* find(int64_t id) const {
    auto it = by_id_.find(id);
    return it == by_id_.end() ? nullptr : it->second;
  }
  // Finds a storage or creates it; `created` tells which.
  NodeStorage& at(int64_t id, bool* created) {
    auto [it, is_new] = by_id_.emplace(id, nullptr);
    if (created != nullptr) *created = is_new;
    if (is_new) {
      if (spare_.empty()) spare_.push_back(std::make_unique<NodeStorage>());
      it->second = spare_.back().release();
      spare_.pop_back();
    }
    return *it->second;
  }
  void erase(int64_t id) {
    auto it = by_id_.find(id);
    std::unique_ptr<NodeStorage> storage(it->second);
    by_id_.erase(it);
    *storage = NodeStorage();
    if (spare_.size() < kMostSpare) spare_.push_back(std::move(storage));
    // The table does not shrink by itself. The frees before pay for a shrink.
    if (by_id_.bucket_count() > kKeptBuckets && by_id_.size() * kShrinkBelow < by_id_.bucket_count()) {
      by_id_.shrink_to_fit();
    }
  }
  template <class Visit>
  void each(const Visit& visit) const {
    for (const auto& [id, storage] : by_id_) visit(id, *storage);
  }

 private:
  static constexpr size_t kMostSpare = 4096;
  static constexpr size_t kKeptBuckets = 4096;
  static constexpr size_t kShrinkBelow = 8;  // the part of the buckets in use below which the table shrinks

  struct Hash {
    using hash_policy = ska::fibonacci_hash_policy;
    size_t operator()(int64_t id) const { return static_cast<size_t>(id); }
  };
  ska::flat_hash_map<int64_t, NodeStorage*, Hash> by_id_;
  std::vector<std::unique_ptr<NodeStorage>> spare_;
};

}  // namespace remora
