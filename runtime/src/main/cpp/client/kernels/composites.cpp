// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Operators whose implementation in libtorch depends on the device: attention, dropout and a few more (recurrent.cpp
// has the recurrent layers). Also the errors for tensors that strided devices do not support.
#include <ATen/ATen.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/native/MaxPooling.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/_nested_tensor_from_tensor_list_native.h>
#include <ATen/ops/dropout_native.h>
#include <ATen/ops/tensor_split_native.h>
#include <torch/library.h>

#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "client/recorder/recorder.h"

namespace remora {

namespace {

// Which implementation scaled_dot_product_attention uses: the one that libtorch would choose on the node's own device,
// if its operators are not specific to CUDA.
int64_t choose_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                         const std::optional<at::Tensor>& mask, double dropout, bool causal,
                         std::optional<double> scale, bool grouped) {
  if (machine_of(query.device()).on_cuda()) {
    bool half = query.scalar_type() == at::kHalf || query.scalar_type() == at::kBFloat16 ||
                query.scalar_type() == at::kFloat;
    bool fits = query.dim() == 4 && query.size(-1) == value.size(-1) && query.size(-1) % 8 == 0 && !grouped &&
                (!mask.has_value() || !mask->requires_grad()) && query.numel() > 0 && key.numel() > 0;
    return static_cast<int64_t>(half && fits ? sdp::SDPBackend::efficient_attention : sdp::SDPBackend::math);
  }
  // The CPU's own choice; one function serves every instruction set. If it sees that the device is the CPU, it accepts
  // a mask with any strides, otherwise only a mask whose last stride is 1.
  auto seen = mask;
  if (mask.has_value() && mask->defined() && mask->dim() > 0 && mask->sym_stride(-1) != 1) {
    seen = at::empty_symint(mask->sym_sizes(), mask->options()).set_requires_grad(mask->requires_grad());
  }
  return at::native::_fused_sdp_choice_stub_DECLARE_DISPATCH_type::DEFAULT(query, key, value, seen, dropout, causal,
                                                                           scale, grouped);
}

int64_t fused_sdp_choice(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                         const std::optional<at::Tensor>& mask, double dropout, bool causal,
                         std::optional<double> scale, bool grouped) {
  return choose_attention(query, key, value, mask, dropout, causal, scale, grouped);
}

// Records a call unchanged and returns its results.
torch::jit::Stack recorded(const c10::OperatorHandle& op, torch::jit::Stack stack) {
  record_call(op, {}, &stack);
  return stack;
}

c10::OperatorHandle find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
}

// ---- operators that libtorch implements in one way on the CPU and in another on all other devices

at::Tensor dropout(const at::Tensor& input, double p, bool train) {
  if (machine_of(input.device()).on_cuda()) {
    return at::native::dropout(input, p, train);
  }
  TORCH_CHECK(p >= 0 && p <= 1, "dropout probability has to be between 0 and 1, but got ", p);
  if (p == 0 || !train || input.sym_numel() == 0) {
    return input;
  }
  if (p == 1) {
    return input.mul(at::zeros({}, input.options()));
  }
  auto noise = at::empty_like(input).bernoulli_(1 - p);
  noise.div_(1 - p);
  return input * noise;
}

std::tuple<at::Tensor, at::Tensor> native_dropout(const at::Tensor& input, double p, std::optional<bool> train) {
  if (input.numel() == 0) {
    return {input, at::empty_like(input)};
  }
  static const auto op = find("aten::native_dropout");
  auto results = recorded(op, {input, p, train});
  return {results[0].toTensor(), results[1].toTensor()};
}

// The CPU has its own kernel for inputs that need no gradient.
at::Tensor max_pool1d(const at::Tensor& input, at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding,
                      at::IntArrayRef dilation, bool ceil_mode) {
  at::native::check_max_pool1d(input, kernel, stride, padding, dilation, ceil_mode);
  bool differentiable = (input.requires_grad() && at::GradMode::is_enabled()) || input._fw_grad(0).defined();
  if (differentiable || machine_of(input.device()).on_cuda()) {
    return std::get<0>(at::max_pool1d_with_indices(input, kernel, stride, padding, dilation, ceil_mode));
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return at::max_pool1d(input, kernel, stride, padding, dilation, ceil_mode);
}

at::Tensor shuffled(const c10::OperatorHandle& op, const at::Tensor& input, int64_t groups) {
  return input.numel() == 0 ? at::alias(input) : recorded(op, {input, groups})[0].toTensor();
}
at::Tensor channel_shuffle(const at::Tensor& input, int64_t groups) {
  static const auto op = find("aten::channel_shuffle");
  return shuffled(op, input, groups);
}
at::Tensor native_channel_shuffle(const at::Tensor& input, int64_t groups) {
  static const auto op = find("aten::native_channel_shuffle");
  return shuffled(op, input, groups);
}

// Returns three views of one tensor.
std::tuple<at::Tensor, at::Tensor, at::Tensor> transform_bias_rescale_qkv(const at::Tensor& qkv, const at::Tensor& bias,
                                                                          int64_t heads) {
  static const auto op = find("aten::_transform_bias_rescale_qkv");
  auto results = recorded(op, {qkv, bias, heads});
  auto joined = at::stack({results[0].toTensor(), results[1].toTensor(), results[2].toTensor()});
  return {joined.select(0, 0), joined.select(0, 1), joined.select(0, 2)};
}

// Writes to its argument and returns it, although the schema does not declare this.
at::Tensor saturate_weight_to_fp16(const at::Tensor& weight) {
  static const auto op = find("aten::_saturate_weight_to_fp16");
  recorded(op, {weight});
  return weight;
}

at::Tensor reshape_from_tensor(const at::Tensor& self, const at::Tensor& shape) {
  TORCH_CHECK(shape.dim() == 1, "the shape must be a 1-D tensor, not a ", shape.dim(), "-D one");
  auto local = shape.to(c10::kCPU, at::kLong).contiguous();
  auto* sizes = static_cast<const int64_t*>(local.const_data_ptr());  // as in read_sizes() of recurrent.cpp
  return self.reshape({sizes, static_cast<size_t>(local.numel())});
}

// The split positions control a loop in the program, so they are read here, whatever their device.
std::vector<at::Tensor> tensor_split(const at::Tensor& self, const at::Tensor& places, int64_t dim) {
  return at::native::tensor_split(self, places.cpu(), dim);
}

// libtorch accepts an empty index on the CPU, even for a tensor on another device.
at::Tensor& filled_at(const c10::OperatorHandle& op, at::Tensor& self, int64_t dim, const at::Tensor& index,
                      c10::IValue value) {
  bool nothing = index.device().is_cpu() && index.numel() == 0;
  recorded(op, {self, dim, nothing ? index.to(self.device()) : index, std::move(value)});
  return self;
}
at::Tensor& index_fill_scalar(at::Tensor& self, int64_t dim, const at::Tensor& index, const at::Scalar& value) {
  static const auto op = find("aten::index_fill_", "int_Scalar");
  return filled_at(op, self, dim, index, value);
}
at::Tensor& index_fill_tensor(at::Tensor& self, int64_t dim, const at::Tensor& index, const at::Tensor& value) {
  static const auto op = find("aten::index_fill_", "int_Tensor");
  return filled_at(op, self, dim, index, value);
}

// For tensors that are not quantized.
at::Tensor dequantize(const at::Tensor& self) { return self.to(at::kFloat); }

// The CPU's kernels write past the end of a non-contiguous output with more than two dimensions.
at::Tensor& triangle_out(const c10::OperatorHandle& op, at::Tensor (*function)(const at::Tensor&, int64_t),
                         const at::Tensor& self, int64_t diagonal, at::Tensor& out) {
  if (out.dim() > 2 && !out.is_contiguous() && out.sizes() == self.sizes()) {
    return out.copy_(function(self, diagonal));
  }
  recorded(op, {self, diagonal, out});
  return out;
}
at::Tensor& tril_out(const at::Tensor& self, int64_t diagonal, at::Tensor& out) {
  static const auto op = find("aten::tril", "out");
  return triangle_out(op, at::tril, self, diagonal, out);
}
at::Tensor& triu_out(const at::Tensor& self, int64_t diagonal, at::Tensor& out) {
  static const auto op = find("aten::triu", "out");
  return triangle_out(op, at::triu, self, diagonal, out);
}

at::Tensor deprecated_convolution(const at::Tensor& input, const at::Tensor& weight,
                                  const std::optional<at::Tensor>& bias, at::IntArrayRef stride,
                                  at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                                  at::IntArrayRef output_padding, int64_t groups, bool, bool, bool) {
  return at::convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups);
}

constexpr auto kNotNested =
    "a remora device holds no nested tensors of the strided layout; pad to one tensor with a mask, make them with "
    "layout=torch.jagged, and nn.TransformerEncoder with enable_nested_tensor=False or leave its mask_check on";

void refuse_sparse(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, toString(op.operator_name()), ": ", kNotSparse);
}

// To make a tensor like a sparse or nested one, libtorch makes its parts and assembles them without the dispatcher.
template <class Operator>
at::Tensor like(c10::DispatchKeySet keys, const at::Tensor& self, std::optional<c10::ScalarType> dtype,
                std::optional<c10::Layout> layout, std::optional<c10::Device> device, std::optional<bool> pin_memory,
                std::optional<c10::MemoryFormat> format) {
  if (device.value_or(self.device()).type() == kRemora) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::sparse_csr::is_sparse_compressed(layout.value_or(self.layout())), Operator::name,
                                ": ", kNotSparse);
    TORCH_CHECK_NOT_IMPLEMENTED(!self.is_nested(), Operator::name, ": ", kNotNested);
  }
  constexpr c10::DispatchKeySet below(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::BackendSelect);
  return Operator::redispatch(keys & below, self, dtype, layout, device, pin_memory, format);
}

void refuse_quantized(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, toString(op.operator_name()), ": ", kNotQuantized);
}

void refuse_nested(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, toString(op.operator_name()), ": ", kNotNested);
}

// For tensors on the CPU: libtorch would make a tensor that no operator accepts.
at::Tensor nested_of_list(at::TensorList list, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout> layout,
                          std::optional<c10::Device> device, std::optional<bool> pin_memory) {
  bool ours = device.has_value() && device->type() == kRemora;
  TORCH_CHECK_NOT_IMPLEMENTED(!ours, "aten::_nested_tensor_from_tensor_list: ", kNotNested);
  return at::native::_nested_tensor_from_tensor_list(list, dtype, layout, device, pin_memory);
}

// nn.TransformerEncoder calls this before it makes a nested tensor. If the answer is no, it uses plain tensors.
bool is_left_aligned(const at::Tensor&, const at::Tensor&) { return false; }

}  // namespace
}  // namespace remora

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &remora::choose_attention)
}  // namespace at::native

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  using namespace remora;
  m.impl("_fused_sdp_choice", fused_sdp_choice);
  m.impl("_reshape_from_tensor", reshape_from_tensor);
  m.impl("dequantize.self", dequantize);
  m.impl("tensor_split.tensor_indices_or_sections", tensor_split);
  m.impl("dropout", dropout);
  m.impl("native_dropout", native_dropout);
  m.impl("max_pool1d", torch::CppFunction::makeFromBoxedFunction<&record_call>());
  m.impl("index_fill_.int_Scalar", index_fill_scalar);
  m.impl("index_fill_.int_Tensor", index_fill_tensor);
  m.impl("channel_shuffle", channel_shuffle);
  m.impl("tril.out", tril_out);
  m.impl("triu.out", triu_out);
  m.impl("native_channel_shuffle", native_channel_shuffle);
  m.impl("_transform_bias_rescale_qkv", transform_bias_rescale_qkv);
  m.impl("_saturate_weight_to_fp16", saturate_weight_to_fp16);
  m.impl("_convolution.deprecated", deprecated_convolution);
  m.impl("_nested_tensor_from_mask_left_aligned", is_left_aligned);
}

// The CPU's kernels ignore the negative bit and read memory as it is; so do the node's.
TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_saturate_weight_to_fp16", torch::CppFunction::makeFallthrough());
  m.impl("_grid_sampler_2d_cpu_fallback_backward", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  using namespace remora;
  m.impl("_reshape_from_tensor", reshape_from_tensor);
  m.impl("tensor_split.tensor_indices_or_sections", tensor_split);
  m.impl("dropout", dropout);
  m.impl("max_pool1d", max_pool1d);
  m.impl("_convolution.deprecated", deprecated_convolution);
  // Not differentiable on any device.
  for (const char* name : {"_saturate_weight_to_fp16", "choose_qparams_optimized", "_rowwise_prune",
                           "_grid_sampler_2d_cpu_fallback_backward"}) {
    m.impl(name, torch::CppFunction::makeFallthrough());
  }
}

// Without these, libtorch would assemble a sparse tensor whose parts are on the device: it has kernels for these
// operators that serve every device, which the fallbacks below do not replace. The dispatcher takes the layout from one
// argument and the device from another, so moving a sparse tensor from the CPU also calls these.
TORCH_LIBRARY_IMPL(aten, SparseCsrPrivateUse1, m) {
  for (const char* name : {"_to_copy", "zeros", "sparse_compressed_tensor.comp_plain_value",
                           "sparse_compressed_tensor.comp_plain_value_size", "_sparse_compressed_tensor_with_dims",
                           "_sparse_compressed_tensor_unsafe", "_sparse_csr_tensor_unsafe", "_sparse_csc_tensor_unsafe",
                           "_sparse_bsr_tensor_unsafe", "_sparse_bsc_tensor_unsafe"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&remora::refuse_sparse>());
  }
}
TORCH_LIBRARY_IMPL(aten, BackendSelect, m) {
  m.impl("empty_like", remora::like<at::_ops::empty_like>);
  m.impl("zeros_like", remora::like<at::_ops::zeros_like>);
}
// Operators whose results would be sparse or quantized on the node.
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  for (const char* name : {"_to_sparse", "_to_sparse.sparse_dim", "_to_sparse_csr", "_to_sparse_csc", "_to_sparse_bsr",
                           "_to_sparse_bsc", "to_mkldnn"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&remora::refuse_sparse>());
  }
  for (const char* name : {"quantize_per_tensor", "quantize_per_tensor.tensor_qparams", "quantize_per_tensor.tensors",
                           "quantize_per_tensor_dynamic", "quantize_per_channel", "_make_per_tensor_quantized_tensor",
                           "_make_per_channel_quantized_tensor"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&remora::refuse_quantized>());
  }
}
// Operators whose results would be nested.
TORCH_LIBRARY_IMPL(aten, CPU, m) { m.impl("_nested_tensor_from_tensor_list", remora::nested_of_list); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  for (const char* name : {"_nested_tensor_from_mask", "_nested_tensor_from_tensor_list", "_nested_from_padded",
                           "_nested_from_padded_and_nested_example", "_nested_view_from_buffer"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&remora::refuse_nested>());
  }
}
TORCH_LIBRARY_IMPL(_, NestedTensorPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&remora::refuse_nested>());
}
TORCH_LIBRARY_IMPL(_, SparsePrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&remora::refuse_sparse>());
}
TORCH_LIBRARY_IMPL(_, SparseCsrPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&remora::refuse_sparse>());
}
TORCH_LIBRARY_IMPL(_, QuantizedPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&remora::refuse_quantized>());
}
