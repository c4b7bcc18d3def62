// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/recorder/plan_key.h"

#include <ATen/MemoryOverlap.h>

#include <cstring>

#include "common/torch_version.h"

namespace remora {

namespace {

void key_tensor(PlanKey& key, const at::Tensor& t) {
  if (!t.defined()) {
    key.mix(0x11);
    return;
  }
  auto* impl = t.unsafeGetTensorImpl();
  key.mix(0x12 | static_cast<uint64_t>(t.scalar_type()) << 8 | static_cast<uint64_t>(t.device().type()) << 16 |
          static_cast<uint64_t>(t.is_conj()) << 24 | static_cast<uint64_t>(t.is_neg()) << 25 |
          static_cast<uint64_t>(impl->is_wrapped_number()) << 26 | static_cast<uint64_t>(t.dim()) << 32);
  for (auto size : t.sizes()) key.mix(size);
  for (auto stride : t.strides()) key.mix(stride);
}

bool key_value(PlanKey& key, const c10::IValue& value, bool scalar, bool values_matter) {
  if (value.isTensor()) {
    key_tensor(key, value.toTensor());
  } else if (value.isNone()) {
    key.mix(0x21);
  } else if (value.isInt()) {
    key.mix(0x22);
    if (!scalar || values_matter) key.mix(value.toInt());
  } else if (is_unsigned(value)) {
    key.mix(0x30);
    if (!scalar || values_matter) key.mix(unsigned_of(value));
  } else if (value.isDouble()) {
    key.mix(0x23);
    if (values_matter) {
      uint64_t bits;
      double number = value.toDouble();
      std::memcpy(&bits, &number, sizeof bits);
      key.mix(bits);
    }
  } else if (value.isBool()) {
    key.mix(value.toBool() ? 0x24 : 0x25);
  } else if (value.isIntList()) {
    auto list = value.toIntVector();
    key.mix(0x26 | list.size() << 8);
    for (auto element : list) key.mix(element);
  } else if (value.isTensorList()) {
    auto list = value.toListRef();
    key.mix(0x27 | list.size() << 8);
    for (const auto& element : list) key_tensor(key, element.toTensor());
  } else if (value.isOptionalTensorList()) {
    auto list = value.toListRef();
    key.mix(0x28 | list.size() << 8);
    for (const auto& element : list) key_tensor(key, element.isNone() ? at::Tensor() : element.toTensor());
  } else if (value.isBoolList()) {
    auto list = value.toBoolList();
    key.mix(0x29 | list.size() << 8);
    for (bool element : list) key.mix(element);
  } else if (value.isDevice()) {
    key.mix(0x2A | static_cast<uint64_t>(value.toDevice().type()) << 8);
  } else if (value.isString()) {
    auto text = value.toStringView();
    key.mix(0x2B | text.size() << 8);
    key.mix(fnv1a(text.data(), text.size()));
  } else if (value.isGenerator()) {
    key.mix(0x2C);
  } else if (value.isComplexDouble()) {
    key.mix(0x2D);
    if (values_matter) return false;
  } else if (value.isDoubleList()) {
    auto list = value.toDoubleVector();  // e.g. upsample's scale factors, which determine sizes
    key.mix(0x2E | list.size() << 8);
    for (double element : list) {
      uint64_t bits;
      std::memcpy(&bits, &element, sizeof bits);
      key.mix(bits);
    }
  } else if (value.isList()) {
    auto list = value.toListRef();
    key.mix(0x2F | list.size() << 8);
    for (const auto& element : list) {
      if (!key_value(key, element, true, values_matter)) return false;
    }
  } else {
    return false;
  }
  return true;
}

bool is_scalar_type(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::NumberType) {
    return true;
  }
  auto optional = type->cast<c10::OptionalType>();
  return optional && optional->getElementType()->kind() == c10::TypeKind::NumberType;
}

// A written tensor that is also an input may not be resized. One that shares memory with an input may be refused.
void key_identity(PlanKey& key, const OperatorInfo& info, Arguments arguments) {
  for (auto written : info.written) {
    if (!arguments[written].isTensor()) continue;  // no operator resizes a list
    const auto* impl = arguments[written].toTensor().unsafeGetTensorImpl();
    uint64_t position = 0;
    uint64_t same = 0;
    for (size_t i = 0; i < written; i++) {
      each_tensor(arguments[i], [&](const at::Tensor& t) {
        position++;
        if (same == 0 && t.unsafeGetTensorImpl() == impl) same = position;
      });
    }
    key.mix(0x31 | same << 8);
    if (impl->has_storage()) {
      each_in_same_storage(arguments[written].toTensor(), arguments, [&](uint64_t which, const at::Tensor& t) {
        auto overlap = at::get_overlap_status(impl, t.unsafeGetTensorImpl());
        key.mix(0x32 | static_cast<uint64_t>(overlap) << 8 | which << 16);
      });
    }
  }
}

}  // namespace

std::optional<PlanKey> plan_key(const OperatorInfo& info, const Settings& settings, Arguments arguments) {
  PlanKey key;
  key.mix(info.index);
  key.mix(settings.key());
  const auto& schema = info.handle.schema().arguments();
  for (size_t i = 0; i < arguments.size(); i++) {
    const auto& value = arguments[i];
    bool scalar = (value.isInt() || value.isDouble()) && is_scalar_type(schema[i].type());
    bool values_matter = info.values_matter || (value.isDouble() && !scalar);
    if (!key_value(key, value, scalar, values_matter)) {
      return std::nullopt;
    }
    if (info.makes_views) {
      each_tensor(value, [&](const at::Tensor& t) {
        if (t.defined() && t.has_storage()) {
          key.mix(t.storage_offset());
          key.mix(t.storage().nbytes());
        }
      });
    }
  }
  if (!info.written.empty()) {
    key_identity(key, info, arguments);
  }
  return key;
}

}  // namespace remora
