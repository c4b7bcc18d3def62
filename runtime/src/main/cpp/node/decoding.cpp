// SPDX-License-Identifier: AGPL-3.0-or-later
//
// From a prepared call and its operands to tensors and arguments.
#include "node/call.h"

#include <ATen/ATen.h>
#include <c10/core/ScalarTypeToTypeMeta.h>

#include <algorithm>
#include <utility>

#include "common/torch_version.h"

namespace remora {

// Whether a tensor that an earlier record named is what the program means now. No one else may use it: a call's tensors
// are different ones, except where the program says that they are the same.
static bool can_name_again(const at::Tensor& t, const c10::Storage& memory, const TensorMeta& meta, int64_t offset) {
  if (!t.defined() || t.use_count() != 1) {
    return false;
  }
  const auto* impl = t.unsafeGetTensorImpl();
  return impl->unsafe_storage().unsafeGetStorageImpl() == memory.unsafeGetStorageImpl() &&
         t.scalar_type() == meta.dtype && t.storage_offset() == offset && t.sizes() == c10::IntArrayRef(meta.sizes) &&
         t.strides() == c10::IntArrayRef(meta.strides) && t.is_conj() == meta.conj && t.is_neg() == meta.neg &&
         !impl->is_wrapped_number() && !impl->requires_grad();
}

// Whether nobody but its owner has the tensor or its memory.
static bool is_unused(const at::Tensor& t) { return t.use_count() == 1 && t.storage().use_count() == 1; }

at::Tensor Executor::tensor(const PreparedTensor& form, const int64_t* operands, Call& call) {
  auto id = operands[form.storage];
  auto offset = form.offset_in(operands);
  auto end = form.end_in(operands);
  if (form.is_new) {
    if (end > kMaxStorageBytes) reader_->fail("a new tensor covers more bytes than a storage can have");
    born(id, form.exact ? end : form.new_bytes, form.device);
  }
  auto* found = storages_.find(id);
  if (found == nullptr) {
    reader_->fail("storage " + std::to_string(id) + " is not on this node");
  }
  auto& storage = *found;
  if (!call.device_known) {
    call.device = storage.device;
    call.device_known = true;
  }
  if (lacks_values(storage)) {
    auto all = storage.memory ? storage.memory.nbytes() : storage.bytes;
    bool filled = call.overwrites && end == all && offset == 0 && form.dense;
    if (!filled) {
      if (!call.failure) call.failure = storage.failure;
      call.inputs.push_back({id, found, at::Tensor()});
      return {};
    }
  }
  const auto& meta = form.meta;
  at::Tensor t;
  try {
    realize(storage);
    if (end > storage.memory.nbytes()) {
      call.refuse("a tensor ends at byte " + std::to_string(end) + " of storage " + std::to_string(id) +
                  ", which has " + std::to_string(storage.memory.nbytes()));
    } else if (can_name_again(storage.tensor, storage.memory, meta, offset)) {
      t = storage.tensor;
    } else {
      t = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage.memory),
                                                   c10::DispatchKeySet(dispatch_keys_[storage.device]),
                                                   c10::scalarTypeToTypeMeta(meta.dtype));
      t.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes, meta.strides, offset);
      if (meta.conj) t._set_conj(true);
      if (meta.neg) t._set_neg(true);
      if (form.wrapped) t.unsafeGetTensorImpl()->set_wrapped_number(true);
      storage.tensor = t;
    }
  } catch (const std::exception& e) {
    call.refuse(e);
  }
  call.inputs.push_back({id, found, t});
  return t;
}

c10::IValue Executor::argument(PreparedArgument& form, Call& call) {
  const auto* operands = call.operands;
  auto number = form.number;
  switch (form.kind) {
    case PreparedArgument::kValue: return form.value;
    case PreparedArgument::kTensor: return tensor(call.prepared->tensors[number], operands, call);
    case PreparedArgument::kSame: {
      auto same = call.inputs[number];  // a copy: the list may move when it grows
      call.inputs.push_back(same);
      return same.tensor;
    }
    case PreparedArgument::kScalarTensor: {
      if (!form.value.isTensor() || !is_unused(form.value.toTensor())) {
        auto t = at::empty({}, at::TensorOptions().dtype(form.dtype));
        if (form.wrapped) t.unsafeGetTensorImpl()->set_wrapped_number(true);
        form.value = t;
      }
      const auto& t = form.value.toTensor();
      std::memcpy(t.mutable_data_ptr(), &operands[number], t.element_size());
      return form.is_written ? std::exchange(form.value, {}) : form.value;
    }
    case PreparedArgument::kDouble: {
      double value = 0;
      std::memcpy(&value, &operands[number], sizeof value);
      return value;
    }
    case PreparedArgument::kDevice:
      if (!call.device_known) {
        call.device = number;
        call.device_known = true;
      }
      return devices_[number];
    case PreparedArgument::kGenerator: return generator(static_cast<uint64_t>(form.value.toInt()), number);
    case PreparedArgument::kTensorList: {
      std::vector<at::Tensor> list;
      list.reserve(form.elements.size());
      for (auto& element : form.elements) list.push_back(argument(element, call).toTensor());
      return list;
    }
    case PreparedArgument::kOptionalTensorList: {
      c10::List<std::optional<at::Tensor>> list;
      for (auto& element : form.elements) {
        auto t = argument(element, call).toTensor();
        list.push_back(t.defined() ? std::optional<at::Tensor>(t) : std::nullopt);
      }
      return list;
    }
    case PreparedArgument::kList: {
      c10::impl::GenericList list(form.type);
      for (auto& element : form.elements) list.push_back(argument(element, call));
      return list;
    }
    case PreparedArgument::kListOfUnknown:
      call.refuse("the operator takes no list here");
      for (auto& element : form.elements) argument(element, call);
      return {};
  }
  return {};
}

bool fits(const c10::IValue& value, const c10::TypePtr& type) {
  if (const auto* optional = type->castRaw<c10::OptionalType>()) {
    return value.isNone() || fits(value, optional->getElementType());
  }
  switch (type->kind()) {
    case c10::TypeKind::TensorType: return value.isTensor();
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: return value.isInt();
    case c10::TypeKind::FloatType: return value.isDouble();
    case c10::TypeKind::BoolType: return value.isBool();
    case c10::TypeKind::ComplexType: return value.isComplexDouble();
    case c10::TypeKind::NumberType: return value.isScalar() || is_unsigned(value);
    case c10::TypeKind::StringType: return value.isString();
    case c10::TypeKind::DeviceObjType: return value.isDevice();
    case c10::TypeKind::GeneratorType: return value.isGenerator();
    case c10::TypeKind::ListType: {
      const auto& element = type->castRaw<c10::ListType>()->getElementType();
      switch (element->kind()) {
        case c10::TypeKind::TensorType: return value.isTensorList();
        case c10::TypeKind::IntType:
        case c10::TypeKind::SymIntType: return value.isIntList();
        case c10::TypeKind::FloatType: return value.isDoubleList();
        case c10::TypeKind::BoolType: return value.isBoolList();
        case c10::TypeKind::OptionalType: return value.isOptionalTensorList() || value.isList();
        default: {
          if (!value.isList()) return false;
          for (const auto& each : value.toListRef()) {
            if (!fits(each, element)) return false;
          }
          return true;
        }
      }
    }
    default:
      // Layout, memory format and dtype travel as integers.
      return value.isInt();
  }
}

}  // namespace remora
