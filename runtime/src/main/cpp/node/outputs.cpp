// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The tensors that a call has made and written. They are bound to storages, checked against the program's expectations,
// or sent as an answer.
#include "node/call.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace remora {

// Returns the tensor itself if it has a storage of its own and the wanted layout, otherwise a copy that does.
at::Tensor Executor::own(Call& call, const at::Tensor& actual, const TensorMeta* layout) {
  TORCH_CHECK_NOT_IMPLEMENTED(actual.layout() == c10::kStrided, "the result has layout ", actual.layout(), ": ",
                              kNotSparse);
  TORCH_CHECK_NOT_IMPLEMENTED(!actual.is_quantized(), "the result is quantized: ", kNotQuantized);
  auto t = actual._is_zerotensor() ? at::zeros(actual.sizes(), actual.options()) : actual;
  auto device = devices_[call.device];
  if (t.device() != device) {
    t = t.to(device);
  }
  auto* storage = t.storage().unsafeGetStorageImpl();
  bool shared = std::find(call.adopted.begin(), call.adopted.end(), storage) != call.adopted.end();
  for (const auto& [id, place, input] : call.inputs) {
    shared = shared ||
             (input.defined() && input.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl() == storage);
  }
  bool fits = !layout || (t.strides() == c10::IntArrayRef(layout->strides));
  auto covered = at::detail::computeStorageNbytes(t.sizes(), t.strides(), t.element_size(), t.storage_offset());
  if (shared || !fits || t.storage_offset() != 0 || storage->nbytes() < covered) {
    auto strides = layout ? c10::IntArrayRef(layout->strides) : t.strides();
    auto copy = layout || t.is_non_overlapping_and_dense() ? at::empty_strided(t.sizes(), strides, t.options())
                                                           : at::empty(t.sizes(), t.options());
    if (t.is_conj()) copy._set_conj(true);
    if (t.is_neg()) copy._set_neg(true);
    copy.copy_(t);
    t = copy;
  }
  call.adopted.push_back(t.storage().unsafeGetStorageImpl());
  return t;
}

void Executor::adopt(Call& call, const PreparedTensor& form, const at::Tensor& actual) {
  auto id = call.operands[form.storage];
  auto end = form.end_in(call.operands);
  if (end > kMaxStorageBytes) reader_->fail("a new tensor covers more bytes than a storage can have");
  const auto& predicted = form.meta;
  if (!call.failure) {
    try {
      TORCH_CHECK(actual.defined(), "the program expects ", describe(predicted), ", the operator returned no tensor");
      TORCH_CHECK(actual.scalar_type() == predicted.dtype && actual.sizes() == c10::IntArrayRef(predicted.sizes) &&
                      actual.is_conj() == predicted.conj && actual.is_neg() == predicted.neg,
                  "the program expects ", describe(predicted), ", the operator returned ",
                  describe(TensorMeta::of(actual)));
      auto t = own(call, actual, &predicted);
      auto& storage = born(id, t.storage().nbytes(), form.device);
      storage.memory = t.storage();
      storage.tensor = std::move(t);
      storage.has_values = true;
      account(storage);
      return;
    } catch (const std::exception& e) {
      call.failure = fail(call, e);
    }
  }
  born(id, end, form.device).failure = call.failure;
}

void Executor::output(const PreparedOutput& form, Call& call, const c10::IValue& value) {
  switch (form.kind) {
    case Output::kTensor:
      adopt(call, call.prepared->tensors[form.tensor], value.isTensor() ? value.toTensor() : at::Tensor());
      break;
    case Output::kAlias: break;
    case Output::kUndefined:
      if (!call.failure && value.isTensor() && value.toTensor().defined()) {
        call.failure = fail(
            call, "the program expects no tensor, the operator returned " + describe(TensorMeta::of(value.toTensor())));
      }
      break;
    case Output::kList: {
      auto n = form.list.size();
      bool fits = value.isTensorList() && value.toListRef().size() == n;
      if (!call.failure && !fits) {
        call.failure = fail(call, "the program expects a list of " + std::to_string(n) + " tensors");
      }
      for (size_t i = 0; i < n; i++) output(form.list[i], call, fits ? value.toListRef()[i] : c10::IValue());
      break;
    }
  }
}

// Calls visit(input, the metadata that the program expects, the offset that it expects) for each written tensor.
template <class Call, class Visit>
static void each_written(Call& call, const Visit& visit) {
  const auto& prepared = *call.prepared;
  for (size_t i = 0; i < prepared.written.size(); i++) {
    auto number = prepared.written[i];
    if (number < 0) continue;
    auto& input = call.inputs[number];
    if (!input.tensor.defined()) continue;
    const auto& named = prepared.tensors[prepared.inputs[number]];
    const auto* expected = &named.meta;
    auto offset = named.offset_in(call.operands);
    for (const auto& [which, meta] : prepared.resized) {
      if (which == i) {
        expected = &meta;
        offset = meta.offset;
      }
    }
    visit(input, *expected, offset);
  }
}

// A written argument must stay in its storage, at its offset: the program keeps both.
void Executor::check_places(const Call& call) {
  each_written(call, [](const Call::Input& input, const TensorMeta&, int64_t offset) {
    const auto* impl = input.tensor.unsafeGetTensorImpl();
    TORCH_CHECK(impl->storage_offset() == offset &&
                    impl->unsafe_storage().unsafeGetStorageImpl() == input.storage->memory.unsafeGetStorageImpl(),
                "the operator moved a written argument to other memory, which a remote tensor does not support");
  });
}

// A written argument must also have the metadata that the program expects.
void Executor::check_written(Call& call) {
  try {
    check_places(call);
  } catch (const std::exception& e) {
    call.failure = fail(call, error_text(e));
  }
  each_written(call, [&](Call::Input& input, const TensorMeta& expected, int64_t offset) {
    if (call.failure) {
      return;
    }
    const auto& t = input.tensor;
    auto& storage = *input.storage;
    bool same_values = t.scalar_type() == expected.dtype && t.sizes() == c10::IntArrayRef(expected.sizes);
    bool same_layout = t.strides() == c10::IntArrayRef(expected.strides);
    if (same_values && same_layout) {
      return;
    }
    if (same_values && t.storage_offset() == 0 && offset == 0 && expected.bytes() == t.storage().nbytes()) {
      try {  // the operator chose another layout for its whole output: convert it
        auto copy = at::empty_strided(expected.sizes, expected.strides, t.options());
        copy.copy_(t);
        storage.keep(copy.storage());
        account(storage);
        return;
      } catch (const std::exception& e) {
        call.failure = fail(call, e);
        return;
      }
    }
    storage.has_values = false;  // not the values that the program expects
    call.failure = fail(call, "the program expects the written argument to be " + describe(expected) +
                                  ", the operator returned " + describe(TensorMeta::of(t)));
  });
}

void Executor::answer_output(Call& call, Writer& w, const c10::IValue& value, int32_t kind,
                             std::vector<at::Tensor>& bound) {
  if (kind >= 0) {
    w.code(Answer::kAlias);
    w.varint(kind);
  } else if (value.isTensor()) {
    if (!value.toTensor().defined()) {
      w.code(Answer::kUndefined);
      return;
    }
    auto t = own(call, value.toTensor(), nullptr);
    w.code(Answer::kTensor);
    TensorMeta::of(t).write(w);
    w.varint(t.storage().nbytes());
    bound.push_back(t);
  } else if (value.isTensorList()) {
    w.code(Answer::kList);
    w.varint(value.toListRef().size());
    for (const auto& element : value.toListRef()) answer_output(call, w, element, OperatorInfo::kNew, bound);
  } else if (value.isInt()) {
    w.code(Answer::kInt);
    w.zigzag(value.toInt());
  } else if (value.isDouble()) {
    w.code(Answer::kDouble);
    w.f64(value.toDouble());
  } else if (value.isBool()) {
    w.code(Answer::kBool);
    w.u8(value.toBool() ? 1 : 0);
  } else if (value.isComplexDouble()) {
    w.code(Answer::kComplex);
    w.f64(value.toComplexDouble().real());
    w.f64(value.toComplexDouble().imag());
  } else if (value.isString()) {
    w.code(Answer::kString);
    w.string(value.toStringView());
  } else if (value.isNone()) {
    w.code(Answer::kNone);
  } else {
    TORCH_CHECK(false, "a result of kind ", value.tagKind(), " cannot be sent back");
  }
}

void Executor::bind(Reader& r) {
  auto request = static_cast<int64_t>(r.varint());
  auto n = r.count("a count of outputs");
  if (n == 0) {  // the program did not wait for the answer
    asked_.erase(request);
    return;
  }
  auto it = asked_.find(request);
  if (it == asked_.end() && restarted()) {  // it was asked before
    auto gone = lost_at_restore("the tensor was made before the machine was restored to an earlier state");
    for (; n > 0; n--) {
      int64_t id = 0;
      storage_record(r, &id).failure = gone;
    }
    return;
  }
  if (it == asked_.end() || it->second.size() != n) {
    r.fail("request " + std::to_string(request) + " has no " + std::to_string(n) + " outputs to bind");
  }
  for (uint64_t i = 0; i < n; i++) {
    int64_t id = 0;
    auto& storage = storage_record(r, &id);
    storage.keep(it->second[i].storage());
    storage.bytes = storage.memory.nbytes();
    storage.has_values = true;
    account(storage);
  }
  asked_.erase(it);
}

}  // namespace remora
