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

// A function to run (from kRun), or a call of the node (from kCallNode).
struct FunctionCall {
  Callee callee = Callee::kWorker;
  std::string_view payload;  // passed to the callee unread
  uint32_t device = 0;       // the device for new tensors
  int64_t timeout_millis = 0;
  std::vector<at::Tensor> tensors;
  std::vector<uint32_t> tensor_devices;  // the numbers of the tensors' devices on the machine
  uint64_t available = 0;                // free bytes on the device; 0 if unknown
};

struct FunctionResult {
  Writer answer;                    // for the program; see common/node_call.h
  std::vector<at::Tensor> created;  // one tensor of bytes per new storage
};

void set_run_callback(Callee callee, remora_run_callback callback);
// Lets an executor's binding answer a call. Throws if the call fails. An exception of a Python function is no such
// failure: the answer contains it.
FunctionResult run_function(int64_t executor, const std::vector<c10::Device>& devices, at::Generator generator,
                            const FunctionCall& call);
// Reads the callee's answer; see remora_run_answer.
void run_answer(const uint8_t* data, size_t bytes);
// Writes a tensor of the current call to a file; see remora_run_write.
void run_write(size_t tensor, const char* path, uint64_t offset, uint64_t bytes);

}  // namespace remora
