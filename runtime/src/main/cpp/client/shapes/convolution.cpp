// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Convolutions and their gradients.
#include "client/shapes/rule.h"

namespace remora {

namespace {

// Whether CPU kernels compute in channels_last: where input or weight have that format.
c10::MemoryFormat format_of(const at::Tensor& input, const at::Tensor& weight) {
  for (const auto& t : {input, weight}) {
    auto format = t.suggest_memory_format();
    if (format == c10::MemoryFormat::ChannelsLast || format == c10::MemoryFormat::ChannelsLast3d) return format;
  }
  return c10::MemoryFormat::Contiguous;
}

// Transposed and dilated convolutions in three dimensions ignore the format.
void check_format(c10::MemoryFormat format, bool transposed, c10::IntArrayRef dilation) {
  bool dilated = false;
  for (auto by : dilation) dilated = dilated || by != 1;
  if (format == c10::MemoryFormat::ChannelsLast3d && (transposed || dilated)) unsure("the memory format");
}

Results convolution(const Call& call) {
  auto input = call.tensor(0), weight = call.tensor(1), bias = call.tensor(2);
  auto stride = call.ints(3), padding = call.ints(4), dilation = call.ints(5), extra = call.ints(7);
  bool transposed = call.flag(6);
  auto groups = call.integer(8);
  auto rank = input.dim();
  bool none = rank > 0 && input.size(0) == 0;  // no image at all
  if (rank < 3 || rank > 5 || weight.dim() != rank || groups < 1 || (input.numel() == 0 && !none) ||
      weight.numel() == 0 || input.scalar_type() != weight.scalar_type() || !input.is_floating_point()) {
    unsure("a convolution of another kind");
  }
  for (const auto* list : {&stride, &padding, &dilation}) {
    if (static_cast<int64_t>(list->size()) != rank - 2 && list->size() != 1) unsure("a parameter's length");
  }
  auto channels = transposed ? weight.size(0) : weight.size(1) * groups;
  auto made = transposed ? weight.size(1) * groups : weight.size(0);
  if (input.size(1) != channels || made % groups != 0 || weight.size(0) % groups != 0) unsure("the channels");
  if (bias.defined() && (bias.dim() != 1 || bias.size(0) != made || bias.scalar_type() != input.scalar_type())) {
    unsure("a bias");
  }
  c10::DimVector sizes = {input.size(0), made};
  for (int64_t d = 2; d < rank; d++) {
    auto i = static_cast<size_t>(d - 2);
    auto s = in_dimension(stride, i), p = in_dimension(padding, i), l = in_dimension(dilation, i);
    if (s < 1 || p < 0 || l < 1) unsure("a parameter");
    auto kernel = l * (weight.size(d) - 1) + 1;
    auto size = transposed ? (input.size(d) - 1) * s - 2 * p + kernel + (extra.empty() ? 0 : in_dimension(extra, i))
                           : (input.size(d) + 2 * p - kernel) / s + 1;
    if (size < 1 || (!transposed && input.size(d) + 2 * p < kernel)) unsure("no output");
    sizes.push_back(size);
  }
  if (none) return {shape_tensor(sizes, input.scalar_type())};
  if (rank == 3) {
    // Computed with a height of one.
    auto view = [](const at::Tensor& t) { return t.unsqueeze(2); };
    c10::DimVector four = {sizes[0], sizes[1], 1, sizes[2]};
    return {shape_tensor(four, input.scalar_type(), format_of(view(contiguous(input)), view(weight))).squeeze(2)};
  }
  auto format = format_of(input, weight);
  check_format(format, transposed, dilation);
  return {shape_tensor(sizes, input.scalar_type(), format)};
}

Results convolution_backward(const Call& call) {
  auto grad = call.tensor(0), input = call.tensor(1), weight = call.tensor(2);
  auto mask = call.flags(10);
  auto rank = input.dim();
  bool none = rank > 0 && input.size(0) == 0 && grad.numel() == 0;
  if (rank < 3 || rank > 5 || weight.dim() != rank || grad.dim() != rank ||
      ((input.numel() == 0 || grad.numel() == 0) && !none) || weight.numel() == 0 ||
      input.scalar_type() != weight.scalar_type() || !input.is_floating_point()) {
    unsure("a convolution of another kind");
  }
  auto view = [&](const at::Tensor& t) { return rank == 3 ? t.unsqueeze(2) : t; };
  auto format = format_of(view(rank == 3 ? contiguous(input) : input), view(weight));
  check_format(format, call.flag(7), call.ints(6));
  auto like = [&](const at::Tensor& t) {
    auto made = none ? at::empty_like(view(t)) : shape_tensor(view(t).sizes(), t.scalar_type(), format);
    return rank == 3 ? made.squeeze(2) : made;
  };
  return {mask[0] ? like(input) : at::Tensor(), mask[1] ? like(weight) : at::Tensor(),
          mask[2] ? shape_tensor({grad.size(1)}, grad.scalar_type()) : at::Tensor()};
}

}  // namespace

Rules convolution_rules() {
  return {
      {convolution, {"convolution", "_convolution"}},
      {convolution_backward, {"convolution_backward"}},
  };
}

}  // namespace remora
