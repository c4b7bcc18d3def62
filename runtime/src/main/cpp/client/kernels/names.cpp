// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Names of dimensions. For most operators, libtorch's own code in the program sets the names of the results. For
// operators whose code runs only on the node, this file sets them. Names are never sent: the node does not need them.
#include "client/kernels/names.h"

#include <torch/library.h>

#include <string>
#include <unordered_map>

#include "client/recorder/recorder.h"

#ifdef REMORA_NAMED_TENSORS

namespace remora {

namespace {

enum class Rule {
  kKept,       // those of the first argument
  kBroadcast,  // those of the first two, together
  kReversed,   // the same, of the second and the first: an error names them in this order
  kCompared,   // the same, but the result has none
  kReduced,    // those of the first argument without the dimensions in "dim"
};

const std::unordered_map<std::string, Rule>& rules() {
  static const auto* all = new std::unordered_map<std::string, Rule>{
      {"aten::abs", Rule::kKept},
      {"aten::angle", Rule::kKept},
      {"aten::isnan", Rule::kKept},
      {"aten::logical_not", Rule::kKept},
      {"aten::max_pool1d", Rule::kKept},
      {"aten::max_pool2d_with_indices", Rule::kKept},
      {"aten::max_pool3d_with_indices", Rule::kKept},
      {"aten::relu", Rule::kKept},
      {"aten::floor_divide", Rule::kBroadcast},
      {"aten::logical_and", Rule::kBroadcast},
      {"aten::logical_or", Rule::kBroadcast},
      {"aten::logical_xor", Rule::kBroadcast},
      {"aten::rsub", Rule::kReversed},
      {"aten::masked_select", Rule::kCompared},
      {"aten::kthvalue", Rule::kReduced},
      {"aten::median", Rule::kReduced},
      {"aten::mode", Rule::kReduced},
      {"aten::nanmedian", Rule::kReduced},
      {"aten::std", Rule::kReduced},
      {"aten::std_mean", Rule::kReduced},
      {"aten::var", Rule::kReduced},
      {"aten::var_mean", Rule::kReduced},
  };
  return *all;
}

const c10::IValue* argument(const OperatorInfo& info, c10::ArrayRef<c10::IValue> arguments, const char* name) {
  auto index = info.handle.schema().argumentIndexWithName(name);
  return index ? &arguments[*index] : nullptr;
}

DimensionNames reduced(const OperatorInfo& info, c10::ArrayRef<c10::IValue> arguments) {
  const auto& self = arguments[0].toTensor();
  auto names = self.names().vec();
  const auto* kept = argument(info, arguments, "keepdim");
  if (kept != nullptr && kept->toBool()) {
    return names;
  }
  const auto* dim = argument(info, arguments, "dim");
  std::vector<int64_t> dims;
  if (dim != nullptr && dim->isInt()) {
    dims = {dim->toInt()};
  } else if (dim != nullptr && dim->isIntList()) {
    dims = dim->toIntVector();
  }
  if (dims.empty()) {
    return {};
  }
  auto gone = at::dim_list_to_bitset(dims, self.dim());
  DimensionNames left;
  for (size_t i = 0; i < names.size(); i++) {
    if (!gone[i]) left.push_back(names[i]);
  }
  return left;
}

}  // namespace

DimensionNames names_of_results(const OperatorInfo& info, c10::ArrayRef<c10::IValue> arguments) {
  auto rule = rules().find(info.name);
  if (rule == rules().end() || !arguments[0].isTensor()) {
    return {};
  }
  const auto& self = arguments[0].toTensor();
  switch (rule->second) {
    case Rule::kKept: break;
    case Rule::kBroadcast:
    case Rule::kReversed:
    case Rule::kCompared: {
      if (!arguments[1].isTensor()) break;
      const auto& other = arguments[1].toTensor();
      bool reversed = rule->second == Rule::kReversed;
      auto names = at::namedinference::compute_broadcast_outnames(reversed ? other : self, reversed ? self : other);
      return rule->second == Rule::kCompared ? DimensionNames() : names;
    }
    case Rule::kReduced: return reduced(info, arguments);
  }
  return self.names().vec();
}

void name_results(const DimensionNames& names, c10::ArrayRef<c10::IValue> results) {
  for (const auto& result : results) {
    if (result.isTensor() && result.toTensor().dim() == static_cast<int64_t>(names.size())) {
      at::namedinference::propagate_names_if_nonempty(result.toTensor(), names);
    }
  }
}

}  // namespace remora

// libtorch computes the shapes of these results in the program and then calls the variants that write to an output, which
// take no names.
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  for (const char* name : {"all", "any", "max_pool2d_with_indices"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&remora::record_call>());
  }
}

#endif
