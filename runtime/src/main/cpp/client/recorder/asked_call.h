// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Calls whose outputs only the node knows: it runs the call, and answers with what the call returned.
#pragma once

#include "client/recorder/arguments.h"
#include "client/recorder/caller.h"
#include "client/recorder/output_plan.h"

namespace remora {

// Lets the node run the call, and learns from it what the call returned. `values_decide`: no rule could tell it from
// metadata.
Plan ask(const Caller& caller, Arguments arguments, int64_t request, bool values_decide);

}  // namespace remora
