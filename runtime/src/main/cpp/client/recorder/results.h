// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What a call returns, made from its plan: new tensors without memory, views of arguments, and written tensors with the
// sizes that the operator gives them.
#pragma once

#include <functional>
#include <vector>

#include "client/recorder/arguments.h"
#include "client/recorder/output_plan.h"

namespace remora {

class Machine;

// Checks, before anything is recorded, whether the storages that the operator enlarges can be resized.
void check_resizable(const OperatorInfo& info, Arguments arguments, const Plan& plan);
// Calls resized(number, tensor) for each written tensor that the operator gives other metadata, once it has it.
void resize_written(const OperatorInfo& info, Arguments arguments, const Plan& plan,
                    const std::function<void(uint32_t, const at::Tensor&)>& resized);
c10::IValue make_output(Machine& machine, int slot, const OutputPlan& plan, Arguments arguments);
// Writes what the node compares the output with.
void write_output(Machine& machine, const OutputPlan& plan, const c10::IValue& value);
// Adds the tensors of an output that have new storages.
void collect_new(const OutputPlan& plan, const c10::IValue& value, std::vector<at::Tensor>& result);

}  // namespace remora
