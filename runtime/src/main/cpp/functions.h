// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Python functions that run whole on the node, next to their tensors (@remora.remote). The node's binding runs them in
// a worker process; this is what passes between that and the core, and the memory that both share.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <string_view>
#include <vector>

#include "remora.h"
#include "wire.h"

namespace remora {

class Machine;

// ---- the node's side

// A function to run, as kRun has it.
struct FunctionCall {
  std::string_view payload;              // for the worker alone
  uint32_t device = 0;                   // where it makes tensors
  int64_t timeout_millis = 0;
  std::vector<at::Tensor> tensors;
  std::vector<uint32_t> tensor_devices;  // their numbers on the machine
};

struct FunctionResult {
  Writer answer;                     // for the program, see functions.cpp
  std::vector<at::Tensor> created;   // one for each new storage, of bytes
};

void set_run_callback(remora_run_callback callback);
// Runs a function in the worker of an executor's binding. Throws what has gone wrong, but not what the function throws:
// that is in the answer.
FunctionResult run_function(int64_t executor, const std::vector<c10::Device>& devices, at::Generator generator,
                            const FunctionCall& call);
// The worker's answer; see remora_run_answer.
void run_answer(const uint8_t* data, size_t bytes);

// ---- the program's side

int64_t record_run(Machine& machine, int device, int64_t timeout_millis, const char* name, const uint8_t* payload,
                   size_t bytes, const int64_t* tensors, size_t count);
std::string await_run(Machine& machine, int64_t request);
void bind_run(Machine& machine, int64_t request, const int64_t* tensors, size_t count);
// The longest time that one of the machine's unfinished functions may take, in milliseconds; 0 when there is none.
int64_t longest_run(int64_t machine);

}  // namespace remora
