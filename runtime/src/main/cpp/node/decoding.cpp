// SPDX-License-Identifier: AGPL-3.0-or-later
//
// From a record's bytes to tensors and arguments.
#include "node/call.h"

#include <ATen/ATen.h>
#include <c10/core/ScalarTypeToTypeMeta.h>

#include <algorithm>

#include "common/torch_version.h"

namespace remora {

// Whether a tensor that an earlier record named is what the program means now. No one else may use it: a call's tensors
// are different ones, except where the program says that they are the same.
static bool can_name_again(const at::Tensor& t, const c10::Storage& memory, const TensorMeta& meta) {
  if (!t.defined() || t.use_count() != 1) {
    return false;
  }
  const auto* impl = t.unsafeGetTensorImpl();
  return impl->unsafe_storage().unsafeGetStorageImpl() == memory.unsafeGetStorageImpl() &&
         t.scalar_type() == meta.dtype && t.storage_offset() == meta.offset &&
         t.sizes() == c10::IntArrayRef(meta.sizes) && t.strides() == c10::IntArrayRef(meta.strides) &&
         t.is_conj() == meta.conj && t.is_neg() == meta.neg && !impl->is_wrapped_number() && !impl->requires_grad();
}

at::Tensor Executor::tensor(Reader& r, uint8_t bits, Call& call, bool output) {
  auto id = next_id(r);
  uint64_t new_bytes = 0;
  uint32_t device = 0;
  bool exact = true;
  if (bits & kNew) {
    auto code = r.bounded(2 * devices_.size() - 1, "a device");
    device = static_cast<uint32_t>(code / 2);
    exact = code & 1;
    if (!exact) {
      new_bytes = r.bounded(kMaxStorageBytes, "a storage's size");
    }
  }
  auto& meta = call.previous;
  if (bits & kSameMeta) {
    if (!call.has_previous) {
      r.fail("a record's first tensor cannot be like the one before it");
    }
  } else {
    meta.dtype = r.dtype();
    auto dims = r.count("a tensor's dimensions");
    meta.sizes.resize(dims);
    meta.strides.resize(dims);
    for (auto& size : meta.sizes) size = static_cast<int64_t>(r.bounded(INT64_MAX, "a size"));
    if (bits & kStrided) {
      for (auto& stride : meta.strides) {
        stride = r.zigzag();
        if (stride < 0) r.fail("a stride is negative");
      }
    } else {
      uint64_t stride = 1;
      for (size_t i = dims; i-- > 0;) {
        meta.strides[i] = static_cast<int64_t>(stride);
        stride *= static_cast<uint64_t>(std::max<int64_t>(meta.sizes[i], 1));
      }
    }
    meta.offset = bits & kOffset ? static_cast<int64_t>(r.bounded(kMaxStorageBytes, "an offset")) : 0;
    call.covered = meta.end();
    call.has_previous = true;
  }
  meta.conj = bits & kConj;
  meta.neg = bits & kNeg;

  auto covered = call.covered;
  if ((output || (bits & kNew)) && covered > kMaxStorageBytes) {
    r.fail("a new tensor covers more bytes than a storage can have");
  }

  if (output) {
    // The caller binds the output; only its metadata and id matter here.
    call.inputs.emplace_back(id, at::Tensor());
    call.device = device;
    return {};
  }
  if (bits & kNew) {
    born(id, exact ? covered : new_bytes, device);
  }
  auto it = storages_.find(id);
  if (it == storages_.end()) {
    r.fail("storage " + std::to_string(id) + " is not on this node");
  }
  auto& storage = it->second;
  if (!call.device_known) {
    call.device = storage.device;
    call.device_known = true;
  }
  if (lacks_values(storage)) {
    auto all = storage.memory ? storage.memory.nbytes() : storage.bytes;
    bool filled = call.overwrites && covered == all && meta.offset == 0 && meta.is_dense();
    if (!filled) {
      if (!call.failure) call.failure = storage.failure;
      call.inputs.emplace_back(id, at::Tensor());
      return {};
    }
  }
  at::Tensor t;
  try {
    realize(storage);
    if (covered > storage.memory.nbytes()) {
      call.refuse("a tensor ends at byte " + std::to_string(covered) + " of storage " + std::to_string(id) +
                  ", which has " + std::to_string(storage.memory.nbytes()));
    } else if (can_name_again(storage.tensor, storage.memory, meta)) {
      t = storage.tensor;
    } else {
      auto key = devices_[storage.device].is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::CUDA;
      t = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage.memory), c10::DispatchKeySet(key),
                                                   c10::scalarTypeToTypeMeta(meta.dtype));
      t.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes, meta.strides, meta.offset);
      if (meta.conj) t._set_conj(true);
      if (meta.neg) t._set_neg(true);
      storage.tensor = t;
    }
  } catch (const std::exception& e) {
    call.refuse(e);
  }
  call.inputs.emplace_back(id, t);
  return t;
}

c10::IValue Executor::argument(Reader& r, Call& call, const c10::TypePtr& type, int depth) {
  auto tag = r.u8();
  if (tag & kTensor) {
    return tensor(r, tag, call, false);
  }
  auto one_tensor = [&]() -> at::Tensor {
    auto value = argument(r, call, c10::TensorType::get(), depth + 1);
    if (!value.isTensor()) r.fail("expected a tensor");
    return value.toTensor();
  };
  if (depth > kMaxNesting) {
    r.fail("the arguments are nested too deeply");
  }
  switch (static_cast<Tag>(tag)) {
    case Tag::kNone: return {};
    case Tag::kUndefined: return at::Tensor();
    case Tag::kWrapped: {
      auto t = one_tensor();
      if (t.defined()) t.unsafeGetTensorImpl()->set_wrapped_number(true);
      return t;
    }
    case Tag::kSameTensor: {
      // Some operators check whether their output is their input, and resizing one must resize the other.
      auto number = r.varint();
      if (number >= call.inputs.size()) r.fail("a call has no tensor " + std::to_string(number) + " yet");
      auto same = call.inputs[number];  // a copy: the list may move when it grows
      call.inputs.push_back(same);
      return same.second;
    }
    case Tag::kScalarTensor: {
      auto dtype = r.dtype();
      auto wrapped = r.u8() != 0;
      if (c10::isQIntType(dtype)) r.fail("a scalar has a quantized dtype");
      auto t = at::empty({}, at::TensorOptions().dtype(dtype));
      std::memcpy(t.mutable_data_ptr(), r.raw(t.element_size()), t.element_size());
      if (wrapped) t.unsafeGetTensorImpl()->set_wrapped_number(true);
      return t;
    }
    case Tag::kInt: return r.zigzag();
    case Tag::kUnsigned: return c10::Scalar(r.varint());
    case Tag::kDouble: return r.f64();
    case Tag::kTrue: return true;
    case Tag::kFalse: return false;
    case Tag::kComplex: {
      double real = r.f64();
      return c10::complex<double>(real, r.f64());
    }
    case Tag::kString: return std::string(r.text());
    case Tag::kDevice: {
      auto device = r.bounded(devices_.size(), "a device");
      if (device == 0) return c10::Device(c10::kCPU);
      if (!call.device_known) {
        call.device = static_cast<uint32_t>(device - 1);
        call.device_known = true;
      }
      return devices_[device - 1];
    }
    case Tag::kTensorList: {
      std::vector<at::Tensor> list;
      for (auto n = r.count("a list's length"); n > 0; n--) list.push_back(one_tensor());
      return list;
    }
    case Tag::kOptionalTensorList: {
      c10::List<std::optional<at::Tensor>> list;
      for (auto n = r.count("a list's length"); n > 0; n--) {
        auto t = one_tensor();
        list.push_back(t.defined() ? std::optional<at::Tensor>(t) : std::nullopt);
      }
      return list;
    }
    case Tag::kIntList: {
      std::vector<int64_t> list;
      for (auto n = r.count("a list's length"); n > 0; n--) list.push_back(r.zigzag());
      return list;
    }
    case Tag::kDoubleList: {
      std::vector<double> list;
      for (auto n = r.count("a list's length"); n > 0; n--) list.push_back(r.f64());
      return list;
    }
    case Tag::kBoolList: {
      c10::List<bool> list;
      for (auto n = r.count("a list's length"); n > 0; n--) list.push_back(r.u8() != 0);
      return list;
    }
    case Tag::kList: {
      auto list_type = type->cast<c10::ListType>();
      if (auto optional = type->cast<c10::OptionalType>()) {
        list_type = optional->getElementType()->cast<c10::ListType>();
      }
      auto n = r.count("a list's length");
      if (!list_type) {  // the node does not have the operator: the call fails anyway
        call.refuse("the operator takes no list here");
        for (; n > 0; n--) argument(r, call, c10::AnyType::get(), depth + 1);
        return {};
      }
      c10::impl::GenericList list(list_type->getElementType());
      for (; n > 0; n--) list.push_back(argument(r, call, list_type->getElementType(), depth + 1));
      return list;
    }
    case Tag::kGenerator: {
      auto id = r.varint();
      auto device = r.bounded(devices_.size() - 1, "a device");
      return generator(id, static_cast<uint32_t>(device));
    }
    default: r.fail("unknown argument " + std::to_string(tag));
  }
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
