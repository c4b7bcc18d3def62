// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The names of dimensions of those results for which libtorch's code in the program sets no names. libtorch 2.14 and
// newer have no named tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <vector>

#include "common/operators.h"

#if __has_include(<ATen/NamedTensorUtils.h>)
#define REMORA_NAMED_TENSORS 1
#include <ATen/NamedTensorUtils.h>
#endif

namespace remora {

#ifdef REMORA_NAMED_TENSORS
using DimensionNames = std::vector<at::Dimname>;
inline bool has_names(const at::Tensor& t) { return t.has_names(); }
// Throws if the names do not match.
DimensionNames names_of_results(const OperatorInfo& info, c10::ArrayRef<c10::IValue> arguments);
void name_results(const DimensionNames& names, c10::ArrayRef<c10::IValue> results);
#else
struct DimensionNames {
  bool empty() const { return true; }
};
inline bool has_names(const at::Tensor&) { return false; }
inline DimensionNames names_of_results(const OperatorInfo&, c10::ArrayRef<c10::IValue>) { return {}; }
inline void name_results(const DimensionNames&, c10::ArrayRef<c10::IValue>) {}
#endif

}  // namespace remora
