// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Layer, group and batch normalization.
#include "client/shapes/rule.h"

namespace remora {

namespace {

// The dtype of statistics. On the CPU it is that of the parameters where it is float32 beside a narrower input. CUDA
// computes them in float32.
c10::ScalarType statistics_dtype(const at::Tensor& input, std::initializer_list<at::Tensor> parameters) {
  if (c10::isReducedFloatingType(input.scalar_type())) {
    if (for_cuda()) return at::kFloat;
    for (const auto& t : parameters) {
      if (t.defined() && t.scalar_type() == at::kFloat) return at::kFloat;
    }
  }
  return input.scalar_type();
}

void check_floating(const at::Tensor& t) {
  if (!t.is_floating_point()) unsure("a dtype that is not floating point");
}

Results layer_norm(const Call& call) {
  auto input = call.tensor(0);
  auto normalized = call.ints(1);
  auto weight = call.tensor(2), bias = call.tensor(3);
  check_floating(input);
  if (normalized.empty() || static_cast<int64_t>(normalized.size()) > input.dim()) unsure("a normalized shape");
  auto axis = input.dim() - static_cast<int64_t>(normalized.size());
  for (size_t i = 0; i < normalized.size(); i++) {
    if (input.size(axis + static_cast<int64_t>(i)) != normalized[i]) unsure("a normalized shape");
  }
  for (const auto& t : {weight, bias}) {
    if (t.defined() && t.sizes() != c10::IntArrayRef(normalized)) unsure("a parameter's shape");
  }
  c10::DimVector stat(input.sizes().begin(), input.sizes().end());
  for (auto i = axis; i < input.dim(); i++) stat[i] = 1;
  auto dtype = statistics_dtype(input, {weight, bias});
  return {contiguous(input), shape_tensor(stat, dtype), shape_tensor(stat, dtype)};
}

Results layer_norm_backward(const Call& call) {
  auto input = call.tensor(1), weight = call.tensor(5), bias = call.tensor(6);
  auto mask = call.flags(7);
  check_floating(input);
  if (call.tensor(0).sizes() != input.sizes()) unsure("a gradient's shape");
  if ((mask[1] && !weight.defined()) || (mask[2] && !bias.defined())) unsure("a gradient without its parameter");
  return {mask[0] ? contiguous(input) : at::Tensor(), mask[1] ? contiguous(weight) : at::Tensor(),
          mask[2] ? contiguous(bias) : at::Tensor()};
}

Results group_norm(const Call& call) {
  auto input = call.tensor(0), weight = call.tensor(1), bias = call.tensor(2);
  check_floating(input);
  if (for_cuda() && c10::isReducedFloatingType(input.scalar_type())) unsure("the statistics' dtype");
  auto n = call.integer(3), groups = call.integer(6);
  auto dtype = statistics_dtype(input, {weight, bias});
  return {in_format_of(input), shape_tensor({n, groups}, dtype), shape_tensor({n, groups}, dtype)};
}

Results group_norm_backward(const Call& call) {
  auto input = call.tensor(1), weight = call.tensor(4);
  auto mask = call.flags(9);
  if ((mask[1] || mask[2]) && !weight.defined()) unsure("a gradient without its parameter");
  return {mask[0] ? in_format_of(input) : at::Tensor(), mask[1] ? contiguous(weight) : at::Tensor(),
          mask[2] ? contiguous(weight) : at::Tensor()};
}

// The output of a batch normalization: in the input's own memory format where it is dense in it.
at::Tensor normalized_batch(const at::Tensor& input) {
  check_floating(input);
  if (input.dim() < 2) unsure("a batch without channels");
  return in_format_of(input);
}

Results batch_norm_of(const Call& call, bool training) {
  auto input = call.tensor(0);
  auto out = normalized_batch(input);
  for (size_t i = 1; i < call.size(); i++) {
    if (!call.value(i).isTensor() || !call.given(i)) continue;
    if (call.tensor(i).dim() != 1 || call.tensor(i).size(0) != input.size(1)) unsure("a parameter's shape");
  }
  auto dtype = statistics_dtype(input, {call.tensor(1), call.tensor(2)});
  c10::DimVector sizes = {training || for_cuda() ? input.size(1) : 0};
  return {out, shape_tensor(sizes, dtype), shape_tensor(sizes, dtype)};
}

Results batch_norm(const Call& call) { return batch_norm_of(call, call.flag(call.named("training"))); }
Results batch_norm_with_update(const Call& call) {
  if (for_cuda()) unsure("the memory that cuDNN reserves");
  auto results = batch_norm_of(call, true);
  results.emplace_back(shape_tensor({0}, at::kByte));
  return results;
}

Results batch_norm_backward(const Call& call) {
  auto input = call.tensor(1), weight = call.tensor(2);
  auto mask = call.flags(call.named("output_mask"));
  check_floating(input);
  auto dtype = weight.defined() ? weight.scalar_type() : input.scalar_type();
  auto parameter = [&] { return shape_tensor({input.size(1)}, dtype); };
  return {mask[0] ? in_format_of(input) : at::Tensor(), mask[1] ? parameter() : at::Tensor(),
          mask[2] ? parameter() : at::Tensor()};
}

}  // namespace

Rules normalization_rules() {
  return {
      {layer_norm, {"native_layer_norm"}},
      {layer_norm_backward, {"native_layer_norm_backward"}},
      {group_norm, {"native_group_norm"}},
      {group_norm_backward, {"native_group_norm_backward"}},
      {batch_norm, {"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit.no_stats"}},
      {batch_norm_with_update, {"_batch_norm_with_update"}},
      {batch_norm_backward, {"native_batch_norm_backward", "batch_norm_backward"}},
  };
}

}  // namespace remora
