// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The batch that is open: writes records of calls, tensors, arguments and frees into it, and keeps the counts that the
// node keeps while it reads them. A call or a free that was sent before becomes a reference to the earlier one.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "client/machine/batch.h"
#include "client/machine/call_forms.h"
#include "common/history.h"
#include "common/operators.h"
#include "common/settings.h"
#include "common/tensor_meta.h"
#include "common/wire.h"

namespace remora {

struct StorageContext;

struct LiveStorage {
  int64_t id;
  int32_t device;
  uint64_t bytes;
};

struct TensorView {
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  c10::IntArrayRef sizes;
  c10::IntArrayRef strides;
  int64_t offset = 0;
};

// Not thread-safe: the machine's lock guards it.
class BatchWriter : public Writer {
 public:
  // `first_slot`: the slot of the machine's device 0.
  explicit BatchWriter(int first_slot);

  // ---- records. A record that has begun and not ended can be taken back: all counts that the node keeps too return to
  // their values before the record.
  void begin_record();
  void end_record();  // throws if the record is too large
  void take_back_record();

  // ---- records that start with code(). They end the open repetition.
  using Writer::code;
  void code(Record record) {
    end_repetition();
    Writer::code(record);
  }
  void write_tensor(const at::Tensor& t);
  void write_storage(StorageContext& storage);  // id, and its birth if it is new
  void write_seed(int64_t generator, int device, uint64_t seed);

  // ---- calls. begin_call(), the arguments, the outputs, the resized arguments, end_call(). Nothing that throws may
  // follow end_call() in the record.
  void begin_call(const OperatorInfo& info, const Settings& settings);
  void write_argument(const c10::IValue& value);
  void write_output(const at::Tensor& t) { put_tensor(t); }
  Writer& form() { return form_; }  // for the rest of outputs and resized arguments
  void end_call();
  void end_asked_call(int64_t request);

  // ---- frees
  void write_frees(c10::ArrayRef<StorageContext*> storages);

  // ---- the batch
  bool has_records() const { return size() > empty_size_ || repeated_ > 0; }
  // About the bytes that the records would take without references. Batches are limited by it, so that a batch is a
  // limited amount of work however few bytes it takes.
  size_t weight() const { return size() + saved_; }
  void count_as_empty() { empty_size_ = size(); }  // what is in the batch so far is not worth sending
  // Takes the batch, and opens the next one, for which it reserves `reserve` bytes.
  std::unique_ptr<Batch> close(size_t reserve);
  void abandon();  // drops the batch and its memory, and opens it again
  // Drops the records of the open batch, and lets it begin with a kRestart. What it says of births and frees stays true.
  // `live`: the machine's storages, in the order of their numbers.
  void restart(uint64_t epoch, const std::string& reason, const std::vector<LiveStorage>& live);
  uint64_t sequence() const { return sequence_; }  // the open batch's number

  // How much the node is to tell of the times of the batches that are opened from now on: Timeline::Detail.
  uint32_t detail = 0;
  void write_detail();  // for the rest of the batch

  int64_t calls = 0;  // recorded calls; the node counts them too

 private:
  // The state that the node will have after the records so far.
  struct Progress {
    size_t bytes = 0;
    size_t born = 0;
    int64_t newest = 0;
    uint32_t defined = 0;
    int64_t calls = 0;
    std::optional<Settings> settings;
  };

  // How an earlier record's operands become those of the one that is being written.
  struct Fit {
    uint32_t modes = 0;   // operands that need another mode
    uint32_t values = 0;  // numbers that differ
    uint32_t others = 0;  // other storages
    uint32_t changes() const { return modes + values + others; }
  };

  void begin();
  void open();
  int device_of_slot(int slot) const { return slot - first_slot_; }
  void note_birth(StorageContext& storage);  // called if this batch is the first to use the storage
  uint32_t wire_index(const OperatorInfo& info);
  void write_settings(const OperatorInfo& info, Settings settings);
  void put_tensor(const at::Tensor& t);
  void put_operand(Operand kind, int64_t value) {
    kinds_.push_back(kind);
    operands_.push_back(value);
  }
  void write_id(int64_t id);
  void write_operands();
  void note_newest();
  void begin_parts();
  void end_parts();
  void check_size() const;
  bool note_free(const StorageContext& storage);
  void write_free(int64_t id);

  // ---- references to what was sent before; see references.cpp
  bool refer(CallForm& form);
  void end_repetition();
  void repeat(uint64_t position);
  void write_start(uint64_t position);
  void write_like(uint64_t position);
  void write_whole(CallForm* form);
  void keep(CallForm* form, const Mode* modes);
  bool repeats(const History<CallForm>::Record& record) const;
  Fit fit(const History<CallForm>::Record& record) const;

  const int first_slot_;
  uint64_t sequence_ = 1;       // the batch's number
  size_t empty_size_ = 0;       // the batch's size before its first record
  std::vector<int64_t> born_;   // triples id, bytes, device; id 0: freed again
  std::vector<int64_t> freed_;  // storages that earlier batches have told the node of
  bool recording_ = false;
  Progress before_record_;
  std::vector<StorageContext*> record_births_;  // storages that the record uses first
  int64_t newest_ = 0;                          // the largest storage number so far
  std::vector<int32_t> wire_indices_;           // by OperatorInfo::index; -1 = not defined yet
  uint32_t defined_ = 0;
  std::optional<Settings> settings_;  // the settings sent last

  // ---- the call that is being written
  Writer form_;
  std::vector<Operand> kinds_;
  std::vector<int64_t> operands_;
  std::vector<Mode> modes_;
  TensorView previous_;                                        // for TensorBits::kSameMeta
  c10::SmallVector<const c10::TensorImpl*, 8> named_tensors_;  // for Tag::kSameTensor

  // ---- what was sent
  CallForms forms_;
  History<CallForm> history_;
  uint64_t expected_ = 0;       // the earlier record that the next one probably repeats
  uint64_t node_expects_ = 0;   // behind the record that the last reference ended with
  uint64_t repeated_ = 0;       // records of the open repetition, which is not written yet
  uint64_t repeated_from_ = 0;  // its start, as it will be written
  size_t saved_ = 0;
  uint32_t patience_ = 1;  // how many earlier calls of a form are looked at
  uint32_t misses_ = 0;    // calls in a row that were like no earlier one
};

}  // namespace remora
