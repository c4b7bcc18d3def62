// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Storages of their own that stand in for outputs (`out=`) which are parts of storages, while the node runs the call.
#pragma once

#include <ATen/core/stack.h>

#include <utility>
#include <vector>

#include "client/recorder/arguments.h"
#include "common/operators.h"

namespace remora {

// Outputs that are parts of storages, each with one of its own in its place. The node would make a part larger by making
// its storage larger, and the program would refuse that when the values are written.
using StandIns = std::vector<std::pair<at::Tensor, at::Tensor>>;

StandIns put_stand_ins(const OperatorInfo& info, Arguments arguments, c10::IValue* stack);
// Makes the parts what the operator has made of their stand-ins: none where one does not fit.
void take_over(const StandIns& all, torch::jit::Stack& stack, size_t results);

}  // namespace remora
