// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The program's prediction of a call's outputs, before the node has computed them.
#pragma once

#include <ATen/core/ivalue.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "common/tensor_meta.h"

namespace remora {

// One output of a Plan. A plan stores a call's outputs, so that calls with equal metadata need not compute them again.
struct OutputPlan {
  enum Kind : uint8_t { kAlias, kView, kTensor, kUndefined, kList, kValue } kind = kUndefined;
  int32_t argument = -1;  // kAlias, kView
  TensorMeta meta;        // kTensor, kView
  int64_t bytes = 0;      // of the storage
  std::vector<OutputPlan> list;
  c10::IValue value;
};
struct Plan {
  std::vector<OutputPlan> outputs;
  // Written arguments (numbered over all tensors of all written arguments) to which the operator gives other metadata.
  // They keep their places in their storages: their offsets are the tensors' own, not the plan's.
  std::vector<std::pair<uint32_t, TensorMeta>> resized;
};

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

}  // namespace remora
