// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Keys of the plan cache: everything that the prediction of a call's outputs depends on.
#pragma once

#include <cstdint>
#include <optional>

#include "client/recorder/arguments.h"
#include "common/operators.h"
#include "common/settings.h"

namespace remora {

struct PlanKey {
  uint64_t a = 0x243F6A8885A308D3ULL;
  uint64_t b = 0x13198A2E03707344ULL;
  // Two independent lanes of multiply-and-fold: 128 bits, which make a collision practically impossible.
  void mix(uint64_t value) {
    auto fold = [](uint64_t x, uint64_t y) {
      auto product = static_cast<unsigned __int128>(x) * y;
      return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
    };
    a = fold(a ^ value, 0x9E3779B97F4A7C15ULL) + 0xA0761D6478BD642FULL;
    b = fold(b + value, 0xE7037ED1A0B428DBULL) ^ (value * 0x8EBC6AF09C88C6E3ULL);
  }
  bool operator==(const PlanKey& o) const { return a == o.a && b == o.b; }
};
struct PlanKeyHash {
  size_t operator()(const PlanKey& k) const { return k.a; }
};

// Everything that a plan may depend on:
// - the operator and the program's settings;
// - of each tensor the device type, dtype, sizes, strides, conj and neg bits, and whether it is a wrapped number;
// - where the operator writes, which tensors are identical and how others of the same storage overlap it;
// - where it makes views, the tensors' positions in their storages;
// - of each other argument the kind and the value, except the values of Scalars of operators that read tensors. Double
//   arguments that are no Scalars can determine sizes too, such as upsample's scales.
// The offset of a written tensor is not part of the key: the plan does not contain it (see Plan::resized).
// The result is empty if the key has no place for an argument.
std::optional<PlanKey> plan_key(const OperatorInfo& info, const Settings& settings, Arguments arguments);

}  // namespace remora
