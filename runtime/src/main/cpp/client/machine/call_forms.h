// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The forms of the calls that the program has sent, by their bytes; see wire.h.
#pragma once

#include <c10/util/flat_hash_map.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "common/wire.h"

namespace remora {

struct CallForm {
  uint32_t number = 0;
  uint32_t size = 0;
  std::unique_ptr<uint8_t[]> bytes;
  uint64_t last = UINT64_MAX;  // where the history has its last call
  CallForm* next = nullptr;    // another form with the same hash

  bool is(const Writer& form) const { return size == form.size() && std::memcmp(bytes.get(), form.data(), size) == 0; }
};

class CallForms {
 public:
  // nullptr if it is not known.
  CallForm* find(const Writer& form) {
    hash_ = hash_of(form.data(), form.size());
    auto it = by_hash_.find(hash_);
    auto* found = it == by_hash_.end() ? nullptr : it->second;
    while (found != nullptr && !found->is(form)) found = found->next;
    return found;
  }
  bool has_room_for(const Writer& form) const {
    return all_.size() < kMaxForms && bytes_ + form.size() <= kMaxFormsBytes;
  }
  // Adds the form that find() has not found.
  CallForm* add(const Writer& form) {
    auto added = std::make_unique<CallForm>();
    added->number = static_cast<uint32_t>(all_.size());
    added->size = static_cast<uint32_t>(form.size());
    added->bytes = std::make_unique<uint8_t[]>(form.size());
    std::memcpy(added->bytes.get(), form.data(), form.size());
    all_.push_back(std::move(added));
    auto* result = all_.back().get();
    auto& first = by_hash_[hash_];
    result->next = first;
    first = result;
    bytes_ += form.size();
    return result;
  }
  void clear() {
    by_hash_.clear();
    all_.clear();
    bytes_ = 0;
  }

 private:
  static uint64_t hash_of(const uint8_t* data, size_t bytes) {
    uint64_t hash = bytes;
    auto mix = [&](uint64_t word) {
      auto product = static_cast<unsigned __int128>(hash ^ word) * 0x9E3779B97F4A7C15ULL;
      hash = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
    };
    uint64_t word;
    for (; bytes >= sizeof word; bytes -= sizeof word, data += sizeof word) {
      std::memcpy(&word, data, sizeof word);
      mix(word);
    }
    word = 0;
    std::memcpy(&word, data, bytes);
    mix(word);
    return hash;
  }

  std::vector<std::unique_ptr<CallForm>> all_;
  ska::flat_hash_map<uint64_t, CallForm*> by_hash_;
  uint64_t hash_ = 0;  // of the form that was looked for last
  size_t bytes_ = 0;
};

}  // namespace remora
