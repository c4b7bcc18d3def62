// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Calls in a batch that no operator answers: Python functions that run whole on the node (@remora.remote), in a worker
// process, and what the node answers, the process that the executor is in (loading and saving models). This is what
// passes between them and the core, and the memory that results are in.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <string_view>
#include <vector>

#include "api/remora.h"
#include "common/wire.h"

namespace remora {

class Machine;

// ---- the node's side

enum class Callee : uint8_t { kWorker, kNode };

// A function to run, as kRun has it, or a call of the node, as kCallNode has it.
struct FunctionCall {
  Callee callee = Callee::kWorker;
  std::string_view payload;              // for the callee alone
  uint32_t device = 0;                   // where it makes tensors
  int64_t timeout_millis = 0;
  std::vector<at::Tensor> tensors;
  std::vector<uint32_t> tensor_devices;  // their numbers on the machine
  uint64_t available = 0;                // bytes that the device has left; 0 where not known
};

struct FunctionResult {
  Writer answer;                     // for the program, see functions.cpp
  std::vector<at::Tensor> created;   // one for each new storage, of bytes
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

// ---- the program's side

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
// The longest time that one of the machine's unfinished calls may take, in milliseconds; 0 when there is none.
int64_t longest_run(int64_t machine);

}  // namespace remora
