// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once

#include <ATen/Context.h>

namespace remora {

// Whether the program wants uninitialized memory to be deterministic: torch.utils.deterministic.
inline bool fills_memory() {
  const auto& context = at::globalContext();
  return C10_UNLIKELY(context.deterministicAlgorithms()) && context.deterministicFillUninitializedMemory();
}

}  // namespace remora
