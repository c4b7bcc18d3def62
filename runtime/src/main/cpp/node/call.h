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

// A call, from its first byte to its bound outputs. Decoding never throws for a mistake that concerns this call alone:
// it notes the failure and continues, so that it finds the records after the call.
struct Executor::Call {
  OperatorInfo* info = nullptr;
  std::string_view name;
  uint64_t number = 0;  // among the session's calls
  torch::jit::Stack stack;
  std::shared_ptr<Failure> failure;
  std::string refusal;        // becomes a failure once all inputs are decoded
  std::string refusal_error;  // the class of the error, as in Failure
  TensorMeta previous;        // of the tensor decoded last
  uint64_t covered = 0;       // its end in bytes
  bool has_previous = false;
  c10::SmallVector<std::pair<int64_t, at::Tensor>, 6> inputs;  // by storage id, in order
  c10::SmallVector<int64_t, 6> written;                        // storage ids
  struct Written {
    at::Tensor tensor;
    TensorMeta expected;
    int64_t storage;
  };
  std::vector<Written> written_tensors;
  c10::SmallVector<const c10::StorageImpl*, 4> adopted;
  uint32_t device = 0;
  bool device_known = false;
  bool overwrites = false;  // the operator ignores the old values of the argument being decoded
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
