// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The node's side of the calls that common/node_call.h describes.
#pragma once

#include <ATen/ATen.h>

#include <string_view>
#include <vector>

#include "common/callbacks.h"
#include "common/node_call.h"

namespace remora {

// A function to run, as kRun has it, or a call of the node, as kCallNode has it.
struct FunctionCall {
  Callee callee = Callee::kWorker;
  std::string_view payload;  // for the callee alone
  uint32_t device = 0;       // where it makes tensors
  int64_t timeout_millis = 0;
  std::vector<at::Tensor> tensors;
  std::vector<uint32_t> tensor_devices;  // their numbers on the machine
  uint64_t available = 0;                // bytes that the device has left; 0 where not known
};

struct FunctionResult {
  Writer answer;                    // for the program, see common/node_call.h
  std::vector<at::Tensor> created;  // one for each new storage, of bytes
};

void set_run_callback(Callee callee, remora_run_callback callback);
// Has a call answered by an executor's binding. Throws what has gone wrong, but not what a Python function throws: that
// is in the answer.
FunctionResult run_function(int64_t executor, const std::vector<c10::Device>& devices, at::Generator generator,
                            const FunctionCall& call);
// The callee's answer; see remora_run_answer.
void run_answer(const uint8_t* data, size_t bytes);
// Writes a tensor of the call to a file; see remora_run_write.
void run_write(size_t tensor, const char* path, uint64_t offset, uint64_t bytes);

}  // namespace remora
