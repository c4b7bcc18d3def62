// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Shape tensors: tensors with metadata and without memory, on which libtorch's own operators run in the program to find
// out what a call returns. They live on a device type that libtorch names and no kernel of libtorch serves (MAIA), so that
// every kernel that runs on them is libtorch's composite code or one of the rules in this folder. The Meta device would
// not do: `import torch` replaces most of its kernels by kernels in Python, which disagree with the real ones on strides.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

namespace remora {

constexpr auto kShapes = c10::DeviceType::MAIA;
constexpr auto kShapesName = "maia";

// While one lives, this thread may make shape tensors, for a call on a node of this kind. For everyone else the device
// has no memory to give.
class ShapesOnly {
 public:
  explicit ShapesOnly(bool cuda);
  ~ShapesOnly();
  ShapesOnly(const ShapesOnly&) = delete;
  ShapesOnly& operator=(const ShapesOnly&) = delete;

 private:
  bool before_;
  bool cuda_before_;
  bool rule_before_;
};

// Whether a rule has run since the innermost ShapesOnly was made.
bool used_rule();

// Whether the call is for a CUDA node, for rules whose results differ there.
bool for_cuda();

// The metadata of a call's results cannot be told from the metadata of its arguments: the node must be asked. A
// NotImplementedError, so that libtorch's code between a rule and its caller passes it on.
[[noreturn]] void unsure(const std::string& why);

at::Tensor shape_tensor(c10::IntArrayRef sizes, c10::ScalarType dtype,
                        c10::MemoryFormat format = c10::MemoryFormat::Contiguous);
at::Tensor shape_tensor(c10::IntArrayRef sizes, c10::IntArrayRef strides, c10::ScalarType dtype);

}  // namespace remora
