// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Operators for which libtorch asks the backend to choose: attention, recurrent cells, and what strided devices do
// not do at all.
#include <ATen/ATen.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <torch/library.h>

#include "machine.h"

namespace remora {

namespace {

// Which implementation scaled_dot_product_attention uses: the one that libtorch would choose on the node's own device,
// as far as its operators exist for other devices than CUDA by name.
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
  // The CPU's own choice; the same function stands behind every instruction set.
  return at::native::_fused_sdp_choice_stub_DECLARE_DISPATCH_type::DEFAULT(query, key, value, mask, dropout, causal,
                                                                           scale, grouped);
}

int64_t fused_sdp_choice(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                         const std::optional<at::Tensor>& mask, double dropout, bool causal,
                         std::optional<double> scale, bool grouped) {
  return choose_attention(query, key, value, mask, dropout, causal, scale, grouped);
}

// libtorch hands recurrent layers of this device type to fused cells that only CUDA has. These are the cells' formulas
// (torch.nn.LSTMCell, torch.nn.GRUCell) in operators that every node has; autograd differentiates them as it does any.
at::Tensor add_bias(const at::Tensor& gates, const std::optional<at::Tensor>& bias) {
  return bias.has_value() && bias->defined() ? gates + *bias : gates;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_cell(const at::Tensor& input_gates, const at::Tensor& hidden_gates,
                                                         const at::Tensor& cx,
                                                         const std::optional<at::Tensor>& input_bias,
                                                         const std::optional<at::Tensor>& hidden_bias) {
  auto gates = (add_bias(hidden_gates, hidden_bias) + add_bias(input_gates, input_bias)).chunk(4, 1);
  auto cy = gates[1].sigmoid() * cx + gates[0].sigmoid() * gates[2].tanh();
  auto hy = gates[3].sigmoid() * cy.tanh();
  return {hy, cy, at::Tensor()};
}

std::tuple<at::Tensor, at::Tensor> gru_cell(const at::Tensor& input_gates, const at::Tensor& hidden_gates,
                                            const at::Tensor& hx, const std::optional<at::Tensor>& input_bias,
                                            const std::optional<at::Tensor>& hidden_bias) {
  auto input = add_bias(input_gates, input_bias).chunk(3, 1);
  auto hidden = add_bias(hidden_gates, hidden_bias).chunk(3, 1);
  auto reset = (hidden[0] + input[0]).sigmoid();
  auto update = (hidden[1] + input[1]).sigmoid();
  auto fresh = (input[2] + hidden[2] * reset).tanh();
  return {(hx - fresh) * update + fresh, at::Tensor()};
}

void refuse_sparse(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, toString(op.operator_name()),
                              ": a remora device holds strided tensors, not sparse ones; call to_dense() on the ",
                              "tensor before moving it, or keep sparse work on the CPU");
}

void refuse_quantized(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, toString(op.operator_name()),
                              ": a remora device holds no quantized tensors; call dequantize() on the tensor before ",
                              "moving it");
}

}  // namespace
}  // namespace remora

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &remora::choose_attention)
}  // namespace at::native

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_fused_sdp_choice", &remora::fused_sdp_choice);
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("_thnn_fused_lstm_cell", &remora::lstm_cell);
  m.impl("_thnn_fused_gru_cell", &remora::gru_cell);
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
