// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What the program finds out about a call by itself: mistakes in its arguments, and its outputs from libtorch's Meta
// kernels.
#pragma once

#include "client/recorder/arguments.h"
#include "client/recorder/output_plan.h"
#include "common/operators.h"

namespace remora {

// Throws if the arguments have a mistake that no Meta kernel detects; see common/checks.cpp.
void check_arguments(const OperatorInfo& info, Arguments arguments);
// Returns false if libtorch cannot infer the outputs without running the operator. Throws the operator's own errors
// about its arguments.
bool infer(const OperatorInfo& info, Arguments arguments, Plan& plan);

}  // namespace remora
