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

// What the metadata of a call's outputs come from.
enum class Origin : uint8_t {
  kView,      // the arguments' memory, seen otherwise
  kRule,      // a rule of Remora's (client/shapes)
  kLibtorch,  // libtorch's own code on shape tensors, or an operator's Meta kernel
  kNode,      // the node, which was asked, at least the first time
  kValues,    // the node, which must be asked each time: values decide
  kCount
};

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
  Origin origin = Origin::kNode;
};

}  // namespace remora
