// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The batch that is open: writes records of calls, tensors, arguments and frees into it, and keeps the counts that the
// node keeps while it reads them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "client/machine/batch.h"
#include "common/operators.h"
#include "common/settings.h"
#include "common/tensor_meta.h"
#include "common/wire.h"

namespace remora {

struct StorageContext;

struct TensorView {
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  c10::IntArrayRef sizes;
  c10::IntArrayRef strides;
  int64_t offset = 0;
};

// The tensors that the current record has named so far.
struct NamedTensors {
  TensorView previous;                                    // for TensorBits::kSameMeta
  c10::SmallVector<const c10::TensorImpl*, 8> arguments;  // for Tag::kSameTensor
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

  // ---- parts of records
  void write_tensor(const at::Tensor& t, NamedTensors& named);
  void write_storage(StorageContext& storage);  // id, and its birth if it is new
  void write_argument(const c10::IValue& value, NamedTensors& named);
  // These write a record of their own if the node needs one: to define the operator, or to change the settings.
  uint32_t wire_index(const OperatorInfo& info);
  void write_settings(const OperatorInfo& info, Settings settings);

  // ---- whole records
  void write_seed(int64_t generator, int device, uint64_t seed);
  void write_free(const StorageContext& storage);

  // ---- the batch
  bool has_records() const { return size() > empty_size_; }
  void count_as_empty() { empty_size_ = size(); }  // what is in the batch so far is not worth sending
  // Takes the batch, and opens the next one, for which it reserves `reserve` bytes.
  std::unique_ptr<Batch> close(size_t reserve);
  void abandon();  // drops the batch and its memory, and opens it again

  int64_t calls = 0;  // recorded calls; the node counts them too

 private:
  // The state that the node will have after the records so far.
  struct Progress {
    size_t bytes = 0;
    size_t born = 0;
    int64_t last_id = 0;
    uint32_t defined = 0;
    int64_t calls = 0;
    std::optional<Settings> settings;
  };

  void open();
  int device_of_slot(int slot) const { return slot - first_slot_; }
  void note_birth(StorageContext& storage);  // called if this batch is the first to use the storage

  const int first_slot_;
  uint64_t sequence_ = 1;       // the batch's number
  size_t empty_size_ = 0;       // the batch's size before its first record
  std::vector<int64_t> born_;   // triples id, bytes, device; id 0: freed again
  std::vector<int64_t> freed_;  // storages that earlier batches have told the node of
  bool recording_ = false;
  Progress before_record_;
  std::vector<StorageContext*> record_births_;  // storages that the record uses first
  int64_t last_id_ = 0;                         // the batch encodes the next storage id as a difference to this one
  std::vector<int32_t> wire_indices_;           // by OperatorInfo::index; -1 = not defined yet
  uint32_t defined_ = 0;
  std::optional<Settings> settings_;  // the settings sent last
};

}  // namespace remora
