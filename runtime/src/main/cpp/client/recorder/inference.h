// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What the program finds out about a call by itself: mistakes in its arguments, and the metadata of its outputs. For
// PyTorch's operators, libtorch's own code and the rules in client/shapes run on shape tensors. For those of other
// libraries, their Meta kernels run.
#pragma once

#include "client/recorder/arguments.h"
#include "client/recorder/output_plan.h"
#include "common/operators.h"

namespace remora {

// Throws if the arguments have a mistake that inference does not detect; see common/checks.cpp.
void check_arguments(const OperatorInfo& info, Arguments arguments);
// Returns false if only the node can tell the outputs. `cuda`: the node computes on CUDA. Throws the operator's own errors
// about its arguments.
bool infer(const OperatorInfo& info, Arguments arguments, bool cuda, Plan& plan);

}  // namespace remora
