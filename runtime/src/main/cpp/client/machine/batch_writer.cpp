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
  begin();
  if (detail != 0) write_detail();
  empty_size_ = size();
  saved_ = 0;
}

void BatchWriter::begin() {
  clear();
  u8(kBatchMagic);
  u8(kWireVersion);
}

void BatchWriter::write_detail() {
  code(Record::kTimed);
  varint(detail);
}

std::unique_ptr<Batch> BatchWriter::close(size_t reserve) {
  end_repetition();
  auto batch = std::make_unique<Batch>();
  batch->sequence = sequence_;
  batch->weight = weight();
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
  repeated_ = 0;
  open();
}

void BatchWriter::restart(uint64_t epoch, const std::string& reason, const std::vector<LiveStorage>& live) {
  repeated_ = 0;
  begin();  // the restart comes before a kTimed, so that everyone finds it
  empty_size_ = size();
  saved_ = 0;
  forms_.clear();
  history_.clear();
  expected_ = node_expects_ = history_.end();
  std::fill(wire_indices_.begin(), wire_indices_.end(), -1);
  defined_ = 0;
  settings_.reset();
  begin_record();
  code(Record::kRestart);
  varint(epoch);
  varint(static_cast<uint64_t>(newest_));
  varint(static_cast<uint64_t>(calls));
  string(reason);
  varint(live.size());
  int64_t previous = 0;
  for (const auto& storage : live) {
    varint(static_cast<uint64_t>(storage.id - previous));
    varint(static_cast<uint64_t>(storage.device));
    varint(storage.bytes);
    previous = storage.id;
  }
  end_record();
  if (detail != 0) write_detail();
}

// ---------------------------------------------------------------- records

void BatchWriter::begin_record() {
  before_record_ = {size(), born_.size(), newest_, defined_, calls, settings_};
  record_births_.clear();
  recording_ = true;
}

void BatchWriter::check_size() const {
  auto bytes = size() + form_.size() + operands_.size() * 10;
  if (recording_ && bytes > kMaxBatchBytes) {
    raise("RemoraException", "the description of one operation is limited to " + std::to_string(kMaxBatchBytes) +
                                 " bytes, this one takes " + std::to_string(bytes - before_record_.bytes) +
                                 "; call it with fewer tensors or values at a time");
  }
}

void BatchWriter::end_record() {
  check_size();
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
  newest_ = before_record_.newest;
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

// ---------------------------------------------------------------- storages and tensors

void BatchWriter::note_birth(StorageContext& storage) {
  storage.born = sequence_;
  storage.birth = static_cast<uint32_t>(born_.size());
  record_births_.push_back(&storage);
  born_.insert(born_.end(), {storage.id, static_cast<int64_t>(storage.bytes), storage.device});
}

void BatchWriter::write_id(int64_t id) {
  zigzag(id - newest_);
  newest_ = std::max(newest_, id);
}

void BatchWriter::write_storage(StorageContext& storage) {
  bool is_new = storage.born == 0;
  u8(is_new ? 1 : 0);
  write_id(storage.id);
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
}

}  // namespace

void BatchWriter::put_tensor(const at::Tensor& t) {
  auto* context = context_of(t);  // storage_of() has checked the tensor
  auto shift = byte_shift(t, *context);
  if (shift != 0) shift /= static_cast<int64_t>(t.element_size());
  TensorView now{t.scalar_type(), t.sizes(), t.strides(), t.storage_offset() + shift};
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) {
    form_.code(Tag::kWrapped);
  }
  uint8_t bits = meta_bits(now, previous_);
  if (t.is_conj()) bits |= kConj;
  if (t.is_neg()) bits |= kNeg;
  bool is_new = context->born == 0;
  if (is_new) bits |= kNew;
  form_.u8(bits);
  put_operand(Operand::kStorage, context->id);
  if (is_new) {
    size_t covered = at::detail::computeStorageNbytes(now.sizes, now.strides, t.element_size(), now.offset);
    bool exact = covered == context->bytes;
    form_.varint(static_cast<uint64_t>(context->device) * 2 + (exact ? 1 : 0));
    if (!exact) {
      form_.varint(context->bytes);
    }
    note_birth(*context);
  }
  write_meta(form_, bits, now);
  if (bits & kOffset) {
    put_operand(Operand::kOffset, now.offset);
  }
  previous_ = now;
}

void BatchWriter::write_tensor(const at::Tensor& t) {
  begin_parts();
  put_tensor(t);
  raw(form_.data(), form_.size());
  write_operands();
  note_newest();
  end_parts();
}

void BatchWriter::write_operands() {
  for (size_t i = 0; i < operands_.size(); i++) write_operand(*this, kinds_[i], operands_[i], newest_);
}

void BatchWriter::note_newest() {
  for (size_t i = 0; i < operands_.size(); i++) {
    if (kinds_[i] == Operand::kStorage) newest_ = std::max(newest_, operands_[i]);
  }
}

void BatchWriter::begin_parts() {
  end_parts();
  kinds_.clear();
  previous_ = {};
  named_tensors_.clear();
}

void BatchWriter::end_parts() {
  form_.clear();
  operands_.clear();
}

// ---------------------------------------------------------------- arguments

void BatchWriter::write_argument(const c10::IValue& value) {
  auto tensor = [&](const at::Tensor& t) {
    if (!t.defined()) {
      form_.code(Tag::kUndefined);
    } else if (t.device().type() == kRemora) {
      const auto* impl = t.unsafeGetTensorImpl();
      auto* context = context_of(t);
      auto& known = named_tensors_;
      auto same = std::exchange(context->call, calls) == calls ? std::find(known.begin(), known.end(), impl)
                                                               : known.end();
      if (same == known.end()) {
        put_tensor(t);
      } else {
        form_.code(Tag::kSameTensor);
        form_.varint(same - known.begin());
      }
      known.push_back(impl);
    } else {  // a 0-dim CPU tensor is sent by value
      auto plain = t.is_conj() || t.is_neg() ? t.resolve_conj().resolve_neg() : t;
      form_.code(Tag::kScalarTensor);
      form_.code(plain.scalar_type());
      form_.u8(t.unsafeGetTensorImpl()->is_wrapped_number() ? 1 : 0);
      auto operand = Operand::kEightBytes;
      if (scalar_operand(plain.scalar_type(), &operand)) {
        int64_t bits = 0;
        std::memcpy(&bits, plain.const_data_ptr(), plain.element_size());
        put_operand(operand, bits);
      } else {
        form_.raw(plain.const_data_ptr(), plain.element_size());
      }
    }
  };
  if (value.isTensor()) {
    tensor(value.toTensor());
  } else if (value.isNone()) {
    form_.code(Tag::kNone);
  } else if (value.isInt()) {
    form_.code(Tag::kInt);
    form_.zigzag(value.toInt());
  } else if (is_unsigned(value)) {
    form_.code(Tag::kUnsigned);
    form_.varint(unsigned_of(value));
  } else if (value.isDouble()) {
    form_.code(Tag::kDouble);
    auto number = value.toDouble();
    int64_t bits = 0;
    std::memcpy(&bits, &number, sizeof bits);
    put_operand(Operand::kEightBytes, bits);
  } else if (value.isBool()) {
    form_.code(value.toBool() ? Tag::kTrue : Tag::kFalse);
  } else if (value.isTensorList()) {
    auto list = value.toListRef();
    form_.code(Tag::kTensorList);
    form_.varint(list.size());
    for (const auto& element : list) tensor(element.toTensor());
  } else if (value.isIntList()) {
    auto list = value.toIntVector();
    form_.code(Tag::kIntList);
    form_.varint(list.size());
    for (auto element : list) form_.zigzag(element);
  } else if (value.isDoubleList()) {
    auto list = value.toDoubleVector();
    form_.code(Tag::kDoubleList);
    form_.varint(list.size());
    for (auto element : list) form_.f64(element);
  } else if (value.isBoolList()) {
    auto list = value.toBoolList();
    form_.code(Tag::kBoolList);
    form_.varint(list.size());
    for (bool element : list) form_.u8(element ? 1 : 0);
  } else if (value.isOptionalTensorList()) {
    auto list = value.toListRef();
    form_.code(Tag::kOptionalTensorList);
    form_.varint(list.size());
    for (const auto& element : list) tensor(element.isNone() ? at::Tensor() : element.toTensor());
  } else if (value.isComplexDouble()) {
    auto number = value.toComplexDouble();
    form_.code(Tag::kComplex);
    form_.f64(number.real());
    form_.f64(number.imag());
  } else if (value.isString()) {
    form_.code(Tag::kString);
    form_.text(value.toStringView());
  } else if (value.isDevice()) {
    auto device = value.toDevice();
    form_.code(Tag::kDevice);
    form_.varint(device.type() == kRemora ? device_of_slot(device.has_index() ? device.index() : current_slot()) + 1
                                          : 0);
  } else if (value.isGenerator()) {
    auto generator = value.toGenerator();
    form_.code(Tag::kGenerator);
    form_.varint(generator_id(generator));
    form_.varint(device_of_slot(generator.device().index()));
  } else if (value.isList()) {
    auto list = value.toListRef();
    form_.code(Tag::kList);
    form_.varint(list.size());
    for (const auto& element : list) write_argument(element);
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

// ---------------------------------------------------------------- calls

void BatchWriter::begin_call(const OperatorInfo& info, const Settings& settings) {
  write_settings(info, settings);
  auto index = wire_index(info);
  begin_parts();
  form_.varint(index);
}

void BatchWriter::end_asked_call(int64_t request) {
  check_size();
  code(Record::kAsk);
  varint(request);
  raw(form_.data(), form_.size());
  write_operands();
  note_newest();
  end_parts();
}

void BatchWriter::end_call() {
  check_size();
  if (form_.size() > kMaxFormBytes || operands_.size() > History<CallForm>::kMostOperandsOfOne) {
    code(Record::kCall);
    varint(kWholeUnnumbered);
    raw(form_.data(), form_.size());
    write_operands();
    note_newest();
  } else {
    auto* form = history_.has(expected_) ? history_.at(expected_).form : nullptr;
    if (form == nullptr || !form->is(form_)) form = forms_.find(form_);
    if (form == nullptr || !refer(*form)) write_whole(form);
  }
  end_parts();
}

}  // namespace remora
