// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The arguments of a call, as the dispatcher passes them: loops over the tensors among them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <functional>

#include "common/operators.h"

namespace remora {

using Arguments = c10::ArrayRef<c10::IValue>;

template <class Visit>
void each_tensor(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isTensorList() || value.isOptionalTensorList()) {
    for (const auto& element : value.toListRef()) visit(element.isNone() ? at::Tensor() : element.toTensor());
  }
}

// Calls visit(position, tensor) for each tensor argument that shares its storage with `written`.
template <class Visit>
void each_in_same_storage(const at::Tensor& written, Arguments arguments, const Visit& visit) {
  const auto* impl = written.unsafeGetTensorImpl();
  const auto* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  uint64_t position = 0;
  for (const auto& argument : arguments) {
    each_tensor(argument, [&](const at::Tensor& t) {
      position++;
      const auto* other = t.unsafeGetTensorImpl();
      if (t.defined() && other != impl && other->unsafe_storage().unsafeGetStorageImpl() == storage) visit(position, t);
    });
  }
}

// Visits the tensors of all arguments that the operator writes to, in order.
inline void each_written_tensor(const OperatorInfo& info, Arguments arguments,
                                const std::function<void(const at::Tensor&)>& visit) {
  for (auto index : info.written) {
    const auto& value = arguments[index];
    if (value.isTensor()) {
      visit(value.toTensor());
    } else if (value.isTensorList()) {
      for (const auto& element : value.toListRef()) visit(element.toTensor());
    } else if (value.isOptionalTensorList()) {
      for (const auto& element : value.toListRef()) {
        if (!element.isNone()) visit(element.toTensor());
      }
    }
  }
}

}  // namespace remora
