// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Pooling, padding and their gradients.
#include <ATen/native/Pool.h>

#include <limits>

#include "client/shapes/rule.h"

namespace remora {

namespace {

// Kernels keep the memory format of an input that has as many dimensions as a batch of images or of volumes.
c10::MemoryFormat format_of(const at::Tensor& input, int64_t dims) {
  return input.dim() == dims ? input.suggest_memory_format() : c10::MemoryFormat::Contiguous;
}

// The gradient of the second argument, in its format if that is a batch.
template <int64_t dims>
Results like_second_batch(const Call& call) {
  auto input = call.tensor(1);
  return {shape_tensor(input.sizes(), input.scalar_type(), format_of(input, dims))};
}

Results like_second_in_any_format(const Call& call) { return {in_format_of(call.tensor(1))}; }

Results adaptive_average(const Call& call) {
  auto input = call.tensor(0);
  auto wanted = call.ints(1);
  auto rank = static_cast<int64_t>(wanted.size());
  if (input.dim() != rank + 1 && input.dim() != rank + 2) unsure("the input's dimensions");
  if (input.numel() == 0) unsure("no elements");
  c10::DimVector sizes(input.sizes().begin(), input.sizes().end() - rank);
  for (auto size : wanted) sizes.push_back(size);
  return {shape_tensor(sizes, input.scalar_type(), format_of(input, rank == 2 ? 4 : 0))};
}

Results max_pool3d(const Call& call) {
  auto input = call.tensor(0);
  auto kernel = call.ints(1), stride = call.ints(2), padding = call.ints(3), dilation = call.ints(4);
  if (stride.empty()) stride = kernel;
  if ((input.dim() != 4 && input.dim() != 5) || input.numel() == 0) unsure("the input's dimensions");
  c10::DimVector sizes(input.sizes().begin(), input.sizes().end() - 3);
  for (size_t i = 0; i < 3; i++) {
    auto k = in_dimension(kernel, i), s = in_dimension(stride, i), p = in_dimension(padding, i),
         l = in_dimension(dilation, i);
    if (k < 1 || s < 1 || l < 1 || p < 0 || p > ((k - 1) * l + 1) / 2) unsure("a parameter");
    auto size = at::native::pooling_output_shape<int64_t>(input.size(input.dim() - 3 + static_cast<int64_t>(i)), k, p,
                                                          s, l, call.flag(5));
    if (size < 1) unsure("no output");
    sizes.push_back(size);
  }
  auto format = format_of(input, 5);
  return {shape_tensor(sizes, input.scalar_type(), format), shape_tensor(sizes, at::kLong, format)};
}

Results max_unpool(const Call& call) {
  auto input = call.tensor(0);
  auto wanted = call.ints(2);
  auto rank = static_cast<int64_t>(wanted.size());
  if ((input.dim() != rank + 1 && input.dim() != rank + 2) || input.numel() == 0 ||
      call.tensor(1).scalar_type() != at::kLong || call.tensor(1).sizes() != input.sizes()) {
    unsure("the input");
  }
  c10::DimVector sizes(input.sizes().begin(), input.sizes().end() - rank);
  for (auto size : wanted) sizes.push_back(size);
  auto format = rank == 2 ? format_of(input, 4) : c10::MemoryFormat::Contiguous;
  return {shape_tensor(sizes, input.scalar_type(), format)};
}

Results grid_sampler(const Call& call) {
  auto input = call.tensor(0), grid = call.tensor(1);
  auto rank = input.dim() - 2;
  if ((rank != 2 && rank != 3) || grid.dim() != input.dim() || grid.size(-1) != rank || grid.size(0) != input.size(0) ||
      grid.scalar_type() != input.scalar_type() || input.numel() == 0) {
    unsure("the input");
  }
  c10::DimVector sizes = {input.size(0), input.size(1)};
  for (int64_t i = 1; i <= rank; i++) sizes.push_back(grid.size(i));
  return {shape_tensor(sizes, input.scalar_type())};
}

Results grid_sampler_backward(const Call& call) {
  auto mask = call.flags(call.named("output_mask"));
  return {mask[0] ? contiguous(call.tensor(1)) : at::Tensor(), contiguous(call.tensor(2))};
}

Results shuffled(const Call& call) {
  auto input = call.tensor(0);
  auto factor = call.integer(1);
  bool back = call.has("downscale_factor");
  if (input.dim() < 3 || factor < 1 || input.numel() == 0) unsure("the input");
  c10::DimVector sizes(input.sizes().begin(), input.sizes().end());
  auto rank = sizes.size();
  auto divides = [&](size_t i, int64_t by) { return sizes[i] % by == 0; };
  if (back ? !divides(rank - 1, factor) || !divides(rank - 2, factor) : !divides(rank - 3, factor * factor)) {
    unsure("the factor");
  }
  sizes[rank - 3] = back ? sizes[rank - 3] * factor * factor : sizes[rank - 3] / (factor * factor);
  for (auto i : {rank - 2, rank - 1}) sizes[i] = back ? sizes[i] / factor : sizes[i] * factor;
  return {shape_tensor(sizes, input.scalar_type(), format_of(input, 4))};
}

Results channels_shuffled(const Call& call) {
  auto input = call.tensor(0);
  auto groups = call.integer(1);
  if (input.dim() < 3 || input.numel() == 0 || groups < 1 || input.size(1) % groups != 0) unsure("the groups");
  return {in_format_of(input)};
}

Results columns(const Call& call) {
  auto input = call.tensor(0);
  auto kernel = call.ints(1), dilation = call.ints(2), padding = call.ints(3), stride = call.ints(4);
  if (input.dim() != 3 && input.dim() != 4) unsure("the input's dimensions");
  int64_t places = 1, window = 1;
  for (size_t i = 0; i < 2; i++) {
    auto k = in_dimension(kernel, i), s = in_dimension(stride, i), p = in_dimension(padding, i),
         l = in_dimension(dilation, i);
    if (k < 1 || s < 1 || l < 1 || p < 0) unsure("a parameter");
    auto room = input.size(input.dim() - 2 + static_cast<int64_t>(i)) + 2 * p - (l * (k - 1) + 1);
    if (room < 0) unsure("no output");
    places *= room / s + 1;
    window *= k;
  }
  auto channels = input.size(input.dim() - 3) * window;
  if (input.numel() == 0) unsure("no elements");
  if (input.dim() == 3) return {shape_tensor({channels, places}, input.scalar_type())};
  return {shape_tensor({input.size(0), channels, places}, input.scalar_type())};
}

Results image(const Call& call) {
  auto input = call.tensor(0);
  auto wanted = call.ints(1), kernel = call.ints(2);
  auto window = in_dimension(kernel, 0) * in_dimension(kernel, 1);
  if ((input.dim() != 2 && input.dim() != 3) || input.numel() == 0 || window < 1 || wanted.size() != 2 ||
      input.size(-2) % window != 0) {
    unsure("the input");
  }
  c10::DimVector sizes;
  if (input.dim() == 3) sizes.push_back(input.size(0));
  sizes.push_back(input.size(-2) / window);
  for (auto size : wanted) sizes.push_back(size);
  return {shape_tensor(sizes, input.scalar_type())};
}

Results pixel_loss(const Call& call) {
  auto input = call.tensor(0), target = call.tensor(1);
  if (input.dim() != 4 || target.dim() != 3 || target.scalar_type() != at::kLong || input.size(0) != target.size(0) ||
      input.size(2) != target.size(1) || input.size(3) != target.size(2)) {
    unsure("the input");
  }
  auto each = call.integer(3) == 0 ? c10::DimVector(target.sizes()) : c10::DimVector();
  return {shape_tensor(each, input.scalar_type()), shape_tensor({}, input.scalar_type())};
}

// The edge is repeated as often as wanted. A reflection ends at the other edge.
template <bool reflects>
Results pad(const Call& call) {
  auto input = call.tensor(0);
  auto by = call.ints(1);
  auto rank = static_cast<int64_t>(by.size() / 2);
  if ((input.dim() != rank + 1 && input.dim() != rank + 2) || input.numel() == 0) unsure("the input's dimensions");
  c10::DimVector sizes(input.sizes().begin(), input.sizes().end());
  for (int64_t i = 0; i < rank; i++) {
    auto& size = sizes[sizes.size() - 1 - i];
    auto most = reflects ? size - 1 : std::numeric_limits<int32_t>::max();
    for (auto side : {by[2 * i], by[2 * i + 1]}) {
      if (side < 0 || side > most) unsure("the padding");
    }
    size += by[2 * i] + by[2 * i + 1];
  }
  return {shape_tensor(sizes, input.scalar_type(), input.suggest_memory_format())};
}

// Kernels of pads give an output of the right size the strides of a new one, too.
template <Rule rule>
Results restrided(const Call& call) {
  auto made = rule(call)[0].toTensor();
  auto out = call.tensor(call.size() - 1);
  if (out.scalar_type() != made.scalar_type()) unsure("an output's dtype");
  return {out.resize_(made.sizes(), made.suggest_memory_format())};
}

}  // namespace

Rules pooling_rules() {
  return {
      {adaptive_average, {"_adaptive_avg_pool2d", "_adaptive_avg_pool3d"}},
      {like_second_batch<4>,
       {"_adaptive_avg_pool2d_backward", "reflection_pad2d_backward", "replication_pad2d_backward"}},
      {like_second, {"_adaptive_avg_pool3d_backward", "fractional_max_pool3d_backward", "nll_loss2d_backward"}},
      {pad<true>, {"reflection_pad2d", "reflection_pad3d"}},
      {pad<false>, {"replication_pad2d", "replication_pad3d"}},
      {restrided<pad<true>>, {"reflection_pad3d.out"}},
      {restrided<pad<false>>, {"replication_pad2d.out", "replication_pad3d.out"}},
      {restrided<like_second_in_any_format>, {"reflection_pad3d_backward.grad_input"}},
      {max_pool3d, {"max_pool3d_with_indices"}},
      {like_second_batch<5>, {"max_pool3d_with_indices_backward"}},
      {like_second_in_any_format, {"reflection_pad3d_backward", "replication_pad3d_backward"}},
      {max_unpool, {"max_unpool2d", "max_unpool3d"}},
      {grid_sampler, {"grid_sampler_2d", "grid_sampler_3d"}},
      {grid_sampler_backward, {"grid_sampler_2d_backward", "grid_sampler_3d_backward"}},
      {shuffled, {"pixel_shuffle", "pixel_unshuffle"}},
      {channels_shuffled, {"channel_shuffle", "native_channel_shuffle"}},
      {columns, {"im2col"}},
      {image, {"col2im"}},
      {pixel_loss, {"nll_loss2d_forward"}},
  };
}

}  // namespace remora
