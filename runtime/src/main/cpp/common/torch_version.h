// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The core builds against libtorch 2.6 and newer. Code that differs between versions tests REMORA_TORCH.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/version.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#define REMORA_TORCH (TORCH_VERSION_MAJOR * 100 + TORCH_VERSION_MINOR)  // 210: libtorch 2.10

namespace remora {

// libtorch 2.6 has no IValue for integers above 2^63-1.
template <typename Value, typename = void>
struct UnsignedValue {
  static bool is(const Value&) { return false; }
  static uint64_t of(const Value&) { return 0; }
};

template <typename Value>
struct UnsignedValue<Value, std::void_t<decltype(std::declval<const Value&>().isUnsigned())>> {
  static bool is(const Value& value) { return value.isUnsigned(); }
  static uint64_t of(const Value& value) { return value.toUInt(); }
};

inline bool is_unsigned(const c10::IValue& value) { return UnsignedValue<c10::IValue>::is(value); }
inline uint64_t unsigned_of(const c10::IValue& value) { return UnsignedValue<c10::IValue>::of(value); }

}  // namespace remora
