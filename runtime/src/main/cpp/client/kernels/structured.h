// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Structured operators: libtorch has a kernel of them for every backend, which computes the results' metadata, makes the
// results and calls the out= overload. Most calls are recorded whole instead, which takes half the time on both sides.
#pragma once

#include <ATen/core/boxing/KernelFunction.h>

#include <string>
#include <unordered_map>

namespace remora {

// Kernels that take the place of libtorch's own, by operator ("add.Tensor").
struct StructuredKernels {
  void impl(const char* name, c10::KernelFunction kernel) { all.emplace(std::string("aten::") + name, kernel); }
  std::unordered_map<std::string, c10::KernelFunction> all;
};
void elementwise_kernels(StructuredKernels& m);  // device_checks.cpp

}  // namespace remora
