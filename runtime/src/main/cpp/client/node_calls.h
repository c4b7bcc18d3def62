// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The program's side of the calls that common/node_call.h describes.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "common/node_call.h"

namespace remora {

class Machine;

int64_t record_run(Machine& machine, Callee callee, int device, int64_t timeout_millis, const char* name,
                   const uint8_t* payload, size_t bytes, const int64_t* tensors, size_t count);
std::string await_run(Machine& machine, int64_t request);
void bind_run(Machine& machine, int64_t request, const std::vector<at::Tensor>& tensors);
// The node's answer, with its tensors bound.
struct NodeAnswer {
  std::string payload;
  std::vector<at::Tensor> tensors;
};
NodeAnswer await_node(Machine& machine, int64_t request);
// The longest time limit among the machine's unfinished calls, in milliseconds; 0 if there are none.
int64_t longest_run(int64_t machine);

}  // namespace remora
