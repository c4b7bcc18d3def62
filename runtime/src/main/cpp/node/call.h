// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A call, or another record that names tensors, while the node decodes and runs it.
#pragma once

#include <string_view>
#include <utility>

#include "common/error.h"
#include "node/executor.h"

namespace remora {

// PyTorch's own class of an error, by its name in the Python binding.
const char* error_class(const std::exception& error);

// Whether an argument has the type that the operator's schema declares. The kernel would misread any other type.
bool fits(const c10::IValue& value, const c10::TypePtr& type);

// A call, from its form and operands to its bound outputs. A mistake that concerns this call alone throws nothing: it
// is noted, and becomes the call's failure once all inputs are known.
struct Executor::Call {
  PreparedCall* prepared = nullptr;
  const int64_t* operands = nullptr;
  OperatorInfo* info = nullptr;
  std::string_view name;
  uint64_t number = 0;  // among the session's calls
  torch::jit::Stack stack;
  std::shared_ptr<Failure> failure;
  std::string refusal;        // becomes a failure once all inputs are decoded
  std::string refusal_error;  // the class of the error, as in Failure
  struct Input {
    int64_t id;
    Storage* storage;
    at::Tensor tensor;
  };
  c10::SmallVector<Input, 6> inputs;
  c10::SmallVector<const c10::StorageImpl*, 4> adopted;
  uint32_t device = 0;
  bool device_known = false;
  bool overwrites = false;  // the operator ignores the old values of the current argument
  std::vector<std::string> described;

  void refuse(const std::string& why, const char* error = "") {
    if (refusal.empty()) {
      refusal = why;
      refusal_error = error;
    }
  }
  void refuse(const std::exception& e) { refuse(error_text(e), error_class(e)); }
};

}  // namespace remora
