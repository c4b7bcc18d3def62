// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/batch_writer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "client/device/generator.h"
#include "client/machine/slots.h"
#include "client/storage.h"
#include "common/error.h"
#include "common/torch_version.h"

namespace remora {

BatchWriter::BatchWriter(int first_slot) : first_slot_(first_slot) { open(); }

void BatchWriter::open() {
  clear();
  u8(kBatchMagic);
  u8(kWireVersion);
  empty_size_ = size();
  last_id_ = 0;
}

std::unique_ptr<Batch> BatchWriter::close(size_t reserve) {
  auto batch = std::make_unique<Batch>();
  batch->sequence = sequence_;
  batch->bytes.reserve(reserve);
  batch->bytes.swap(*this);
  batch->born.reserve(born_.size());
  for (size_t i = 0; i < born_.size(); i += 3) {
    if (born_[i] != 0) {
      batch->born.insert(batch->born.end(), {born_[i], born_[i + 1], born_[i + 2]});
    }
  }
  batch->freed.swap(freed_);
  born_.clear();
  sequence_++;
  open();
  return batch;
}

void BatchWriter::abandon() {
  Writer().swap(*this);
  open();
}

// ---------------------------------------------------------------- records

void BatchWriter::begin_record() {
  before_record_ = {size(), born_.size(), last_id_, defined_, calls, settings_};
  record_births_.clear();
  recording_ = true;
}

void BatchWriter::end_record() {
  if (recording_ && size() > kMaxBatchBytes) {
    raise("RemoraException", "the description of one operation is limited to " + std::to_string(kMaxBatchBytes) +
                                 " bytes, this one takes " + std::to_string(size() - before_record_.bytes) +
                                 "; call it with fewer tensors or values at a time");
  }
  recording_ = false;
}

void BatchWriter::take_back_record() {
  if (!recording_) {
    return;
  }
  recording_ = false;
  truncate(before_record_.bytes);
  born_.resize(before_record_.born);
  for (auto* context : record_births_) context->born = 0;
  last_id_ = before_record_.last_id;
  for (auto& index : wire_indices_) {
    if (index >= static_cast<int32_t>(before_record_.defined)) index = -1;
  }
  defined_ = before_record_.defined;
  calls = before_record_.calls;
  settings_ = before_record_.settings;
}

void BatchWriter::write_seed(int64_t generator, int device, uint64_t seed) {
  code(Record::kSeed);
  varint(generator);
  varint(device);
  varint(seed);
}

void BatchWriter::write_free(const StorageContext& storage) {
  if (storage.born == 0) {
    return;
  }
  code(Record::kFree);
  zigzag(storage.id - last_id_);
  last_id_ = storage.id;
  if (storage.born == sequence_) {
    born_[storage.birth] = 0;
  } else {
    freed_.push_back(storage.id);
  }
}

// ---------------------------------------------------------------- storages and tensors

void BatchWriter::note_birth(StorageContext& storage) {
  storage.born = sequence_;
  storage.birth = static_cast<uint32_t>(born_.size());
  record_births_.push_back(&storage);
  born_.insert(born_.end(), {storage.id, static_cast<int64_t>(storage.bytes), storage.device});
}

void BatchWriter::write_storage(StorageContext& storage) {
  bool is_new = storage.born == 0;
  u8(is_new ? 1 : 0);
  zigzag(storage.id - last_id_);
  last_id_ = storage.id;
  if (is_new) {
    varint(static_cast<uint64_t>(storage.device) * 2);
    varint(storage.bytes);
    note_birth(storage);
  }
}

namespace {

// The bits and bytes that describe a tensor, without its storage.
uint8_t meta_bits(const TensorView& now, const TensorView& previous) {
  uint8_t bits = kTensor;
  if (now.dtype == previous.dtype && now.offset == previous.offset && now.sizes == previous.sizes &&
      now.strides == previous.strides) {
    return bits | kSameMeta;
  }
  if (!strides_are_contiguous(now.sizes, now.strides)) {
    bits |= kStrided;
  }
  if (now.offset != 0) {
    bits |= kOffset;
  }
  return bits;
}

void write_meta(Writer& w, uint8_t bits, const TensorView& now) {
  if (bits & kSameMeta) {
    return;
  }
  w.code(now.dtype);
  w.varint(now.sizes.size());
  for (auto size : now.sizes) w.varint(size);
  if (bits & kStrided) {
    for (auto stride : now.strides) w.zigzag(stride);
  }
  if (bits & kOffset) {
    w.varint(now.offset);
  }
}

}  // namespace

void BatchWriter::write_tensor(const at::Tensor& t, NamedTensors& named) {
  auto* context = context_of(t);  // storage_of() has checked the tensor
  auto shift = byte_shift(t, *context) / static_cast<int64_t>(t.element_size());
  TensorView now{t.scalar_type(), t.sizes(), t.strides(), t.storage_offset() + shift};
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) {
    code(Tag::kWrapped);
  }
  uint8_t bits = meta_bits(now, named.previous);
  if (t.is_conj()) bits |= kConj;
  if (t.is_neg()) bits |= kNeg;
  bool is_new = context->born == 0;
  if (is_new) bits |= kNew;
  u8(bits);
  zigzag(context->id - last_id_);
  last_id_ = context->id;
  if (is_new) {
    size_t covered = at::detail::computeStorageNbytes(now.sizes, now.strides, t.element_size(), now.offset);
    bool exact = covered == context->bytes;
    varint(static_cast<uint64_t>(context->device) * 2 + (exact ? 1 : 0));
    if (!exact) {
      varint(context->bytes);
    }
    note_birth(*context);
  }
  write_meta(*this, bits, now);
  named.previous = now;
}

// ---------------------------------------------------------------- arguments

void BatchWriter::write_argument(const c10::IValue& value, NamedTensors& named) {
  auto tensor = [&](const at::Tensor& t) {
    if (!t.defined()) {
      code(Tag::kUndefined);
    } else if (t.device().type() == kRemora) {
      const auto* impl = t.unsafeGetTensorImpl();
      auto* context = context_of(t);
      auto& known = named.arguments;
      auto same = std::exchange(context->call, calls) == calls ? std::find(known.begin(), known.end(), impl)
                                                               : known.end();
      if (same == known.end()) {
        write_tensor(t, named);
      } else {
        code(Tag::kSameTensor);
        varint(same - known.begin());
      }
      known.push_back(impl);
    } else {  // a 0-dim CPU tensor is sent by value
      auto plain = t.is_conj() || t.is_neg() ? t.resolve_conj().resolve_neg() : t;
      code(Tag::kScalarTensor);
      code(plain.scalar_type());
      u8(t.unsafeGetTensorImpl()->is_wrapped_number() ? 1 : 0);
      raw(plain.const_data_ptr(), plain.element_size());
    }
  };
  if (value.isTensor()) {
    tensor(value.toTensor());
  } else if (value.isNone()) {
    code(Tag::kNone);
  } else if (value.isInt()) {
    code(Tag::kInt);
    zigzag(value.toInt());
  } else if (is_unsigned(value)) {
    code(Tag::kUnsigned);
    varint(unsigned_of(value));
  } else if (value.isDouble()) {
    code(Tag::kDouble);
    f64(value.toDouble());
  } else if (value.isBool()) {
    code(value.toBool() ? Tag::kTrue : Tag::kFalse);
  } else if (value.isTensorList()) {
    auto list = value.toListRef();
    code(Tag::kTensorList);
    varint(list.size());
    for (const auto& element : list) tensor(element.toTensor());
  } else if (value.isIntList()) {
    auto list = value.toIntVector();
    code(Tag::kIntList);
    varint(list.size());
    for (auto element : list) zigzag(element);
  } else if (value.isDoubleList()) {
    auto list = value.toDoubleVector();
    code(Tag::kDoubleList);
    varint(list.size());
    for (auto element : list) f64(element);
  } else if (value.isBoolList()) {
    auto list = value.toBoolList();
    code(Tag::kBoolList);
    varint(list.size());
    for (bool element : list) u8(element ? 1 : 0);
  } else if (value.isOptionalTensorList()) {
    auto list = value.toListRef();
    code(Tag::kOptionalTensorList);
    varint(list.size());
    for (const auto& element : list) tensor(element.isNone() ? at::Tensor() : element.toTensor());
  } else if (value.isComplexDouble()) {
    auto number = value.toComplexDouble();
    code(Tag::kComplex);
    f64(number.real());
    f64(number.imag());
  } else if (value.isString()) {
    code(Tag::kString);
    text(value.toStringView());
  } else if (value.isDevice()) {
    auto device = value.toDevice();
    code(Tag::kDevice);
    varint(device.type() == kRemora ? device_of_slot(device.has_index() ? device.index() : current_slot()) + 1 : 0);
  } else if (value.isGenerator()) {
    auto generator = value.toGenerator();
    code(Tag::kGenerator);
    varint(generator_id(generator));
    varint(device_of_slot(generator.device().index()));
  } else if (value.isList()) {
    auto list = value.toListRef();
    code(Tag::kList);
    varint(list.size());
    for (const auto& element : list) write_argument(element, named);
  } else {
    raise("RemoraException", "an argument of kind " + value.tagKind() + " cannot be sent to a remote device");
  }
}

// ---------------------------------------------------------------- operators and settings

uint32_t BatchWriter::wire_index(const OperatorInfo& info) {
  if (info.index >= wire_indices_.size()) {
    wire_indices_.resize(info.index + 64, -1);
  }
  auto& index = wire_indices_[info.index];
  if (index < 0) {
    if (defined_ >= kMaxOperators) {
      raise("RemoraException",
            info.full_name + ": a machine accepts " + std::to_string(kMaxOperators) + " different operators at most");
    }
    index = static_cast<int32_t>(defined_++);
    code(Record::kDefineOperator);
    varint(index);
    info.write_definition(*this);
  }
  return static_cast<uint32_t>(index);
}

void BatchWriter::write_settings(const OperatorInfo& info, Settings settings) {
  if (info.multiplies || !settings_) {
    settings.add_precision();
  } else {
    settings.add_precision(*settings_);
  }
  if (settings_ != settings) {
    settings_ = settings;
    code(Record::kSettings);
    settings.write(*this);
  }
}

}  // namespace remora
