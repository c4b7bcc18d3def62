// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The last calls and frees of a session's batches. The program and the node keep equal copies, so that a call or a
// stretch of calls that was sent before can travel as a reference. Both drop the oldest ones by the same rule, and the
// rule depends only on what was added since both started.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/wire.h"

namespace remora {

// How an operand of an earlier call becomes that of a repeated one.
enum class Mode : uint8_t {
  kRelative = 0,  // a storage: at the same distance from the newest storage that was named before the call
  kSame = 1,      // the same storage, or the same value
};

// `Form`: what the owner keeps of a call apart from its operands. A free has none. Not thread-safe.
template <class Form>
class History {
 public:
  static constexpr uint64_t kMostRecords = 32 * 1024;
  static constexpr uint64_t kMostOperands = 128 * 1024;
  // A call of more operands is not kept.
  static constexpr uint64_t kMostOperandsOfOne = 16 * 1024;

  struct Record {
    Form* form;
    int64_t newest;     // the newest storage that was named before the record
    uint64_t before;    // for the owner's use
    uint32_t at;        // where the operands are
    uint32_t operands;  // how many
  };

  uint64_t begin() const { return begin_; }
  uint64_t end() const { return end_; }
  bool has(uint64_t position) const { return position - begin_ < end_ - begin_; }
  const Record& at(uint64_t position) const { return records_[position % kMostRecords]; }
  const int64_t* operands(const Record& record) const { return operands_.get() + record.at; }
  const Mode* modes(const Record& record) const { return modes_.get() + record.at; }

  // Adds a record; the caller fills its operands and modes. Pointers to those of other records stay valid until the next
  // call, except that those of dropped records may be overwritten by what the caller fills in.
  Record& add(Form* form, int64_t newest, uint64_t before, uint32_t operands) {
    if (records_ == nullptr) {
      // The system provides the memory page by page, as it is used.
      records_ = zeros<Record>(kMostRecords);
      operands_ = zeros<int64_t>(kRoom);
      modes_ = zeros<Mode>(kRoom);
    }
    while (end_ - begin_ == kMostRecords || live_ + operands > kMostOperands) {
      live_ -= at(begin_++).operands;
    }
    // A record's operands lie side by side. The room is twice the limit, so that those skipped at its end fit, too.
    if (next_ + operands > kRoom) next_ = 0;
    auto& record = records_[end_++ % kMostRecords];
    record = {form, newest, before, next_, operands};
    next_ += operands;
    live_ += operands;
    return record;
  }
  int64_t* operands(Record& record) { return operands_.get() + record.at; }
  Mode* modes(Record& record) { return modes_.get() + record.at; }

  void clear() {
    begin_ = end_;
    live_ = 0;
  }

 private:
  static constexpr uint32_t kRoom = 2 * kMostOperands;
  static_assert(kMostOperands + 2 * kMostOperandsOfOne <= kRoom, "a record could overwrite one that is kept");

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  template <class T>
  using Memory = std::unique_ptr<T[], Free>;
  template <class T>
  static Memory<T> zeros(size_t count) {
    auto* memory = static_cast<T*>(std::calloc(count, sizeof(T)));
    if (memory == nullptr) throw std::bad_alloc();
    return Memory<T>(memory);
  }

  Memory<Record> records_;
  Memory<int64_t> operands_;
  Memory<Mode> modes_;
  uint64_t begin_ = 0;
  uint64_t end_ = 0;
  uint64_t live_ = 0;  // operands of all records
  uint32_t next_ = 0;
};

}  // namespace remora
