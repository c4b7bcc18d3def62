// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The boxed kernel of every operator without a kernel of its own for remora devices. It finds out what the call returns
// (from the plan cache, else by inference, else from the node), records the call, and returns tensors without
// memory.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace remora {

void record_call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack);

}  // namespace remora
