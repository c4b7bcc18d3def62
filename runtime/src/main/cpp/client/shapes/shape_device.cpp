// SPDX-License-Identifier: AGPL-3.0-or-later
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "client/shapes/rule.h"

namespace remora {

namespace {

thread_local bool shapes_only = false;
thread_local bool cuda_node = false;
thread_local bool rule_ran = false;

struct NoMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t) override { return {nullptr, nullptr, raw_deleter(), c10::Device(kShapes, 0)}; }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::detail::deleteNothing; }
  void copy_data(void*, const void*, std::size_t) const override {}
};

NoMemory no_memory;

at::Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout> layout, std::optional<c10::Device>, std::optional<bool>) {
  TORCH_CHECK_NOT_IMPLEMENTED(shapes_only, "PyTorch has no memory on device ", kShapes);
  if (layout.has_value() && *layout != c10::kStrided) unsure("a result is not strided");
  return at::detail::empty_strided_generic(sizes, strides, &no_memory, c10::DispatchKeySet(c10::DispatchKey::MAIA),
                                           c10::dtype_or_default(dtype));
}

at::Tensor empty(c10::IntArrayRef sizes, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout> layout,
                 std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK_NOT_IMPLEMENTED(shapes_only, "PyTorch has no memory on device ", kShapes);
  if (layout.has_value() && *layout != c10::kStrided) unsure("a result is not strided");
  return at::detail::empty_generic(sizes, &no_memory, c10::DispatchKeySet(c10::DispatchKey::MAIA),
                                   c10::dtype_or_default(dtype), format);
}

const at::Tensor& resize_shape(const at::Tensor& self, c10::IntArrayRef sizes,
                               std::optional<c10::MemoryFormat> format) {
  auto* impl = self.unsafeGetTensorImpl();
  if (self.sizes() != sizes) impl->set_sizes_contiguous(sizes);
  if (format.has_value()) impl->empty_tensor_restride(*format);
  auto bytes = self.numel() == 0 ? 0
                                 : at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.element_size(),
                                                                    self.storage_offset());
  if (bytes > self.storage().nbytes()) self.storage().unsafeGetStorageImpl()->set_nbytes(bytes);
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef sizes,
                        c10::IntArrayRef strides) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
  return self;
}

at::Tensor& copy(at::Tensor& self, const at::Tensor& from, bool) {
  if (!at::is_expandable_to(from.sizes(), self.sizes())) unsure("copy_ does not broadcast");
  return self;
}

// ---------------------------------------------------------------- rules

const std::unordered_map<std::string, Rule>& all_rules() {
  static const auto* rules = [] {
    auto* all = new std::unordered_map<std::string, Rule>();
    for (auto family :
         {elementwise_rules, reduction_rules, normalization_rules, convolution_rules, pooling_rules, indexing_rules,
          attention_rules, linear_algebra_rules, factorization_rules, fft_rules, loss_rules, asked_rules}) {
      for (const auto& line : family()) {
        for (const auto* name : line.operators) {
          TORCH_INTERNAL_ASSERT(all->emplace(std::string("aten::") + name, line.rule).second, "two rules for ", name);
        }
      }
    }
    return all;
  }();
  return *rules;
}

bool is_out(const c10::Argument& argument) {
  return argument.kwarg_only() && argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

bool writes_out(const c10::FunctionSchema& schema) {
  const auto& arguments = schema.arguments();
  return std::any_of(arguments.begin(), arguments.end(), is_out);
}

// nullptr if there is none.
Rule rule_of(const c10::FunctionSchema& schema) {
  const auto& rules = all_rules();
  auto it = rules.find(schema.overload_name().empty() ? schema.name() : schema.name() + "." + schema.overload_name());
  if (it == rules.end() && !writes_out(schema)) it = rules.find(schema.name() + ".*");
  return it == rules.end() ? nullptr : it->second;
}

void run_rule(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  rule_ran = true;
  size_t arguments = op.schema().arguments().size();
  c10::ArrayRef<c10::IValue> values(stack->data() + stack->size() - arguments, arguments);
  auto results = rule_of(op.schema())(Call(op.schema(), values));
  torch::jit::drop(*stack, arguments);
  for (auto& result : results) stack->push_back(std::move(result));
}

// ---------------------------------------------------------------- structured operators and out= overloads

constexpr auto kStructured = c10::DispatchKey::CompositeExplicitAutogradNonFunctional;

const std::vector<c10::OperatorHandle>& overloads_of(const std::string& name) {
  static const auto* all = [] {
    auto* by_name = new std::unordered_map<std::string, std::vector<c10::OperatorHandle>>();
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const auto& op : dispatcher.getAllOpNames()) {
      auto handle = dispatcher.findSchema(op);
      if (handle && op.name.rfind("aten::", 0) == 0) (*by_name)[op.name].push_back(*handle);
    }
    return by_name;
  }();
  static const std::vector<c10::OperatorHandle> none;
  auto it = all->find(name);
  return it == all->end() ? none : it->second;
}

// The types of the arguments that are not outputs.
bool same_inputs(const c10::FunctionSchema& a, const c10::FunctionSchema& b) {
  std::vector<c10::TypePtr> inputs;
  for (const auto& argument : a.arguments()) {
    if (!is_out(argument)) inputs.push_back(argument.type());
  }
  size_t i = 0;
  for (const auto& argument : b.arguments()) {
    if (is_out(argument)) continue;
    if (i == inputs.size() || *inputs[i++] != *argument.type()) return false;
  }
  return i == inputs.size();
}

// Another overload of the same operator, kept after the first search; nullopt if there is none.
std::optional<c10::OperatorHandle> sibling(const c10::OperatorHandle& op, bool out) {
  static std::mutex mutex;
  static auto* known = new std::unordered_map<const void*, std::optional<c10::OperatorHandle>>();
  std::lock_guard<std::mutex> guard(mutex);
  auto [it, fresh] = known->try_emplace(&op.schema());
  if (fresh) {
    auto name = op.schema().name();
    if (out && name.back() == '_') name.pop_back();
    for (const auto& other : overloads_of(name)) {
      if (writes_out(other.schema()) == out && same_inputs(op.schema(), other.schema())) {
        it->second = other;
        break;
      }
    }
  }
  return it->second;
}

// The out= overload that a structured operator's kernel is about to call for outputs that it has made.
thread_local const void* served = nullptr;

// A structured operator: libtorch's kernel for backends without one. It checks the arguments, makes the outputs by the
// operator's own meta function, and calls the out= overload, which has nothing left to do.
void run_structured(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  auto out = sibling(op, true);
  struct Restore {
    const void* before = served;
    ~Restore() { served = before; }
  } restore;
  served = out ? &out->schema() : nullptr;
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::PrivateUse3), stack);
}

// An out= overload: its outputs take over the metadata of what the operator itself would return, as resize_output does.
void run_out(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  size_t count = schema.arguments().size();
  auto base = stack->size() - count;
  if (served == &schema) {
    served = nullptr;
  } else {
    torch::jit::Stack made;
    bool as_it_is = false;
    if (auto rule = rule_of(schema)) {
      rule_ran = true;
      made = rule(Call(schema, c10::ArrayRef<c10::IValue>(stack->data() + base, count)));
    } else {
      auto functional = sibling(op, false);
      // Any other kernel would call this overload again.
      if (!functional || !(functional->hasKernelForDispatchKey(kStructured) || rule_of(functional->schema()))) {
        unsure(schema.name() + "." + schema.overload_name() + " has no rule");
      }
      for (size_t i = 0; i < count; i++) {
        if (!is_out(schema.arguments()[i])) made.push_back((*stack)[base + i]);
      }
      functional->callBoxed(made);
      // A kernel that is not structured may give its outputs other strides although their sizes fit.
      as_it_is = !functional->hasKernelForDispatchKey(kStructured);
    }
    size_t next = 0;
    for (size_t i = 0; i < count; i++) {
      if (!is_out(schema.arguments()[i])) continue;
      if (next == made.size() || !made[next].isTensor()) unsure("outputs of another kind");
      const auto& result = made[next++].toTensor();
      const auto& out = (*stack)[base + i].toTensor();
      if (out.scalar_type() != result.scalar_type()) unsure("an output's dtype");
      if (as_it_is && (out.sizes() != result.sizes() || out.strides() != result.strides()))
        unsure("an output's layout");
      if (out.sizes() == result.sizes()) continue;
      resize_shape(out, result.sizes(), std::nullopt);
      out.unsafeGetTensorImpl()->set_sizes_and_strides(result.sizes(), result.strides(), out.storage_offset());
    }
  }
  torch::jit::Stack outs;
  for (size_t i = 0; i < count; i++) {
    if (is_out(schema.arguments()[i])) outs.push_back((*stack)[base + i]);
  }
  torch::jit::drop(*stack, count);
  if (!schema.returns().empty()) stack->insert(stack->end(), outs.begin(), outs.end());
}

void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  if (writes_out(op.schema())) return run_out(op, stack);
  unsure(op.schema().name() + " has no rule");
}

}  // namespace

ShapesOnly::ShapesOnly(bool cuda) : before_(shapes_only), cuda_before_(cuda_node), rule_before_(rule_ran) {
  shapes_only = true;
  cuda_node = cuda;
  rule_ran = false;
}
ShapesOnly::~ShapesOnly() {
  shapes_only = before_;
  cuda_node = cuda_before_;
  rule_ran = rule_before_;
}

bool used_rule() { return rule_ran; }

bool for_cuda() { return cuda_node; }

void unsure(const std::string& why) { TORCH_CHECK_NOT_IMPLEMENTED(false, why); }

at::Tensor shape_tensor(c10::IntArrayRef sizes, c10::ScalarType dtype, c10::MemoryFormat format) {
  return empty(sizes, dtype, {}, {}, {}, format);
}

at::Tensor shape_tensor(c10::IntArrayRef sizes, c10::IntArrayRef strides, c10::ScalarType dtype) {
  return empty_strided(sizes, strides, dtype, {}, {}, {});
}

C10_REGISTER_GUARD_IMPL(MAIA, c10::impl::NoOpDeviceGuardImpl<kShapes>);

}  // namespace remora

TORCH_LIBRARY_IMPL(_, MAIA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&remora::run>()); }

TORCH_LIBRARY_IMPL(aten, MAIA, m) {
  using namespace remora;
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("resize_", resize_shape);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("copy_", copy);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    auto full = name.name + (name.overload_name.empty() ? "" : "." + name.overload_name);
    auto handle = dispatcher.findSchema(name);
    if (!handle) continue;
    if (rule_of(handle->schema()) != nullptr) {
      auto kernel = writes_out(handle->schema()) ? torch::CppFunction::makeFromBoxedFunction<&remora::run_out>()
                                                 : torch::CppFunction::makeFromBoxedFunction<&remora::run_rule>();
      m.impl(full.substr(6).c_str(), std::move(kernel));
    } else if (handle->hasKernelForDispatchKey(kStructured)) {
      m.impl(full.substr(6).c_str(), torch::CppFunction::makeFromBoxedFunction<&remora::run_structured>());
    }
  }
}
