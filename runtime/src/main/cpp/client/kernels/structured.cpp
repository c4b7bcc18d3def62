// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/kernels/structured.h"

#include <torch/library.h>

#include "client/device/registration.h"
#include "client/kernels/names.h"
#include "client/machine/slots.h"
#include "client/recorder/arguments.h"
#include "client/recorder/recorder.h"

namespace remora {

namespace {

constexpr auto kStructured = c10::DispatchKey::CompositeExplicitAutogradNonFunctional;

// The kernel for calls that are not recorded whole.
void run_kernel(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  static const auto* kernels = [] {
    StructuredKernels made;
    elementwise_kernels(made);
    auto* by_schema = new std::unordered_map<const void*, c10::KernelFunction>();
    for (const auto& [name, kernel] : made.all) {
      auto dot = name.find('.');
      auto overload = dot == std::string::npos ? "" : name.substr(dot + 1);
      auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name.substr(0, dot).c_str(), overload.c_str());
      by_schema->emplace(&handle.schema(), kernel);
    }
    return by_schema;
  }();
  auto it = kernels->find(&op.schema());
  if (it != kernels->end()) {
    it->second.callBoxed(op, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), stack);
  } else {
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::PrivateUse3), stack);  // a backend without kernels
  }
}

// Whether the plan of such a call is all that libtorch's kernel would find out: its tensors are on one device, or are
// numbers, and have no names. Operands that the CPU would convert may also change the results' strides.
bool is_plain(Arguments arguments) {
  int slot = -1;
  bool plain = true;
  bool dense = true;
  auto dtype = c10::ScalarType::Undefined;
  bool converted = false;
  for (const auto& argument : arguments) {
    each_tensor(argument, [&](const at::Tensor& t) {
      if (!t.defined()) {
        plain = plain && !argument.isTensor();
        return;
      }
      if (t.device().type() != kRemora) {
        plain = plain && t.device().is_cpu() && t.dim() == 0;
        converted = converted || c10::isComplexType(t.scalar_type());
        return;
      }
      plain = plain && (slot < 0 || slot == t.device().index()) && !has_names(t);
      slot = t.device().index();
      converted = converted || (dtype != c10::ScalarType::Undefined && dtype != t.scalar_type());
      dtype = t.scalar_type();
      dense = dense && (t.dim() == 0 || t.is_non_overlapping_and_dense());
    });
  }
  return plain && slot >= 0 && (dense || (!converted && c10::isFloatingType(dtype)));
}

void record_structured(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& info = operator_info(op);
  Arguments arguments(stack->data() + stack->size() - info.arguments, info.arguments);
  bool by_metadata = !info.always_ask && !info.masks_matter && !info.warns_at_call;
  if (by_metadata && is_plain(arguments)) {
    record_call(op, {}, stack);
  } else {
    run_kernel(op, stack);
  }
}

}  // namespace

void register_structured() {
  static auto* library = new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, 0);
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    auto handle = dispatcher.findSchema(name);
    // An operator with such a kernel alone, and none for the CPU, is not structured but composed of others.
    if (!handle || !handle->hasKernelForDispatchKey(kStructured) ||
        !handle->hasKernelForDispatchKey(c10::DispatchKey::CPU) ||
        handle->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) {
      continue;
    }
    auto full = name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
    library->impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&record_structured>());
  }
}

}  // namespace remora
