// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Operators that read or write at indices.
#include <ATen/ExpandUtils.h>
#include <ATen/native/TensorFactories.h>

#include "client/shapes/rule.h"

namespace remora {

namespace {

void check_index(const at::Tensor& index) {
  if (index.scalar_type() != at::kLong && index.scalar_type() != at::kInt) unsure("an index's dtype");
}

Results index_select(const Call& call) {
  auto self = call.tensor(0), index = call.tensor(2);
  check_index(index);
  if (index.dim() > 1 || self.dim() == 0) unsure("an index of several dimensions");
  auto dim = call.integer(1);
  if (dim < -self.dim() || dim >= self.dim()) unsure("a dimension out of range");
  c10::DimVector sizes(self.sizes().begin(), self.sizes().end());
  sizes[dim < 0 ? dim + self.dim() : dim] = index.numel();
  return {shape_tensor(sizes, self.scalar_type())};
}

Results embedding_backward(const Call& call) {
  check_index(call.tensor(1));
  return {shape_tensor({call.integer(2), call.tensor(0).size(-1)}, call.tensor(0).scalar_type())};
}

// Bags of embeddings: (weights, indices, offsets, …). CUDA's kernels return intermediate results of other sizes.
constexpr int64_t kBagSum = 0, kBagMax = 2;

// What the forward pass returns. It keeps more for the gradient where there may be one.
template <bool differentiable>
Results bags(const Call& call) {
  auto weight = call.tensor(0), indices = call.tensor(1), offsets = call.tensor(2);
  auto mode = call.integer(4);
  bool with_last = call.flag(7);
  check_index(indices);
  check_index(offsets);
  if (for_cuda() || weight.dim() != 2 || !weight.is_floating_point() || indices.dim() != 1 || offsets.dim() != 1 ||
      offsets.size(0) == 0 || mode < kBagSum || mode > kBagMax || call.integer(8) >= weight.size(0)) {
    unsure("the arguments");
  }
  bool weighted = call.given(6);
  if (weighted && (mode != kBagSum || call.tensor(6).scalar_type() != weight.scalar_type() ||
                   call.tensor(6).sizes() != indices.sizes())) {
    unsure("the weights of the samples");
  }
  auto dtype = indices.scalar_type() == offsets.scalar_type() ? indices.scalar_type() : at::kLong;
  auto count = offsets.size(0) - (with_last ? 1 : 0);
  bool counted = differentiable || mode != kBagSum;
  // A sum of whole rows does not need to know the bag of each index.
  bool direct = mode == kBagSum && weight.scalar_type() != at::kDouble && weight.stride(1) == 1 &&
                call.integer(8) < 0 && (!weighted || call.tensor(6).stride(0) == 1);
  c10::DimVector of_bags = {counted ? count : offsets.size(0)};
  c10::DimVector largest = of_bags;
  if (mode == kBagMax) largest = {count, weight.size(1)};
  return {shape_tensor({count, weight.size(1)}, weight.scalar_type()),
          shape_tensor({direct ? 0 : indices.size(0)}, dtype), shape_tensor(of_bags, dtype),
          shape_tensor(largest, dtype)};
}

Results bags_backward(const Call& call) {
  auto rows = call.integer(call.named("num_weights"));
  if ((call.has("sparse") && call.flag(call.named("sparse"))) || rows < 0 || call.tensor(0).dim() != 2) {
    unsure("a sparse gradient");
  }
  return {shape_tensor({rows, call.tensor(0).size(1)}, call.tensor(0).scalar_type())};
}

Results sample_weights_backward(const Call& call) {
  return {shape_tensor({call.tensor(2).size(0)}, call.tensor(0).scalar_type())};
}

Results renormed(const Call& call) {
  check_index(call.tensor(1));
  if (call.tensor(0).dim() != 2 || !call.tensor(0).is_floating_point()) unsure("the weights");
  return {call.tensor(0)};
}

Results take(const Call& call) {
  if (call.tensor(1).scalar_type() != at::kLong) unsure("an index's dtype");
  return {shape_tensor(call.tensor(1).sizes(), call.tensor(0).scalar_type())};
}

Results flip(const Call& call) {
  reduced(call.tensor(0), call.ints(1), true);  // checks the dimensions
  return {at::empty_like(call.tensor(0))};
}

at::Tensor rolled(const at::Tensor& t, c10::IntArrayRef shifts, c10::IntArrayRef dims) {
  if (dims.empty() && shifts.size() == 1) {
    auto flat = t.contiguous().view(t.numel());
    return rolled(flat, shifts[0], 0).view(t.sizes());
  }
  if (dims.size() != shifts.size() || dims.empty()) unsure("the shifts");
  if (t.numel() == 0) return t.clone(c10::MemoryFormat::Preserve);
  if (dims.size() > 1) return rolled(rolled(t, shifts[0], dims[0]), shifts.slice(1), dims.slice(1));
  if (dims[0] < -t.dim() || dims[0] >= t.dim()) unsure("a dimension out of range");
  auto size = t.size(dims[0]);
  auto start = (size - shifts[0]) % size;
  if (start < 0) start += size;
  return at::cat({t.narrow(dims[0], start, size - start), t.narrow(dims[0], 0, start)}, dims[0]);
}

Results roll(const Call& call) { return {rolled(call.tensor(0), call.ints(1), call.ints(2))}; }

Results places(const Call& call) {
  auto values = call.has("input") ? call.value(call.named("input")) : call.value(call.named("self"));
  auto bounds = call.tensor(call.has("boundaries") ? call.named("boundaries") : call.named("sorted_sequence"));
  bool one = call.has("boundaries") || !values.isTensor();
  if (one && bounds.dim() != 1) unsure("the boundaries");
  if (values.isTensor()) {
    const auto& t = values.toTensor();
    bool fits = bounds.dim() == 1 || (bounds.dim() == t.dim() &&
                                      bounds.sizes().slice(0, bounds.dim() - 1) == t.sizes().slice(0, t.dim() - 1));
    if (!fits || t.scalar_type() != bounds.scalar_type()) unsure("the boundaries");
  }
  bool narrow = call.flag(call.named("out_int32"));
  auto sizes = values.isTensor() ? values.toTensor().sizes() : c10::IntArrayRef();
  return {shape_tensor(sizes, narrow ? at::kInt : at::kLong)};
}

// Written in place where a mask is true: the values fit, however many places there are.
Results put_where(const at::Tensor& self, const at::Tensor& mask, const at::Tensor& values) {
  if (mask.dim() > self.dim() || mask.sizes() != self.sizes().slice(0, mask.dim()) ||
      values.scalar_type() != self.scalar_type() ||
      !at::is_expandable_to(values.sizes(), self.sizes().slice(mask.dim()))) {
    unsure("a mask");
  }
  return {self};
}

// Written in place at indices: the values have the tensor's dtype and broadcast to what indexing would read.
Results put(const Call& call) {
  auto self = call.tensor(0), values = call.tensor(2);
  c10::List<std::optional<at::Tensor>> indices;
  for (const auto& element : call.value(1).toListRef()) {
    auto index = element.isNone() ? std::nullopt : std::make_optional(element.toTensor());
    if (index && (index->scalar_type() == at::kBool || index->scalar_type() == at::kByte)) {
      if (call.value(1).toListRef().size() != 1) unsure("a mask among others");
      return put_where(self, *index, values);
    }
    indices.push_back(index);
  }
  if (values.scalar_type() != self.scalar_type() ||
      !at::is_expandable_to(values.sizes(), at::index(self, indices).sizes())) {
    unsure("the values");
  }
  return {self};
}

Results put_flat(const Call& call) {
  auto self = call.tensor(0);
  if (call.tensor(1).scalar_type() != at::kLong || call.tensor(1).numel() != call.tensor(2).numel() ||
      call.tensor(2).scalar_type() != self.scalar_type()) {
    unsure("the values");
  }
  return {self};
}

Results index_fill(const Call& call) {
  auto self = call.tensor(0), index = call.tensor(2);
  auto dim = call.integer(1), rank = std::max<int64_t>(self.dim(), 1);
  if (index.dim() > 1 || index.scalar_type() != at::kLong || dim < -rank || dim >= rank ||
      (call.value(3).isTensor() && call.tensor(3).dim() != 0)) {
    unsure("the index");
  }
  return {self};
}

Results drawn(const Call& call) {
  auto t = call.tensor(0);
  auto count = call.integer(1);
  if (t.dim() < 1 || t.dim() > 2 || count < 1 || !t.is_floating_point() || (!call.flag(2) && count > t.size(-1)) ||
      t.size(-1) > 1 << 24) {
    unsure("the input");
  }
  if (t.dim() == 1) return {shape_tensor({count}, at::kLong)};
  return {shape_tensor({t.size(0), count}, at::kLong)};
}

// ---------------------------------------------------------------- ranges

c10::ScalarType of_out(const Call& call) { return call.tensor(call.size() - 1).scalar_type(); }

Results arange(const Call& call) {
  auto start = call.value(0).toScalar(), end = call.value(1).toScalar(), step = call.value(2).toScalar();
  double count;
  if (of_out(call) == at::kLong) {  // counted in integers, whatever the bounds are
    auto by = step.toLong();
    auto length = end.toLong() - start.toLong();
    if (by == 0) unsure("no step");
    count = static_cast<double>(length / by + (length % by != 0 ? 1 : 0));
  } else {
    count = std::ceil((end.toDouble() - start.toDouble()) / step.toDouble());
  }
  if (!(count >= 0 && count < 9e15)) unsure("the bounds");
  return {shape_tensor({static_cast<int64_t>(count)}, of_out(call))};
}

Results spaced(const Call& call) {
  auto steps = call.integer(call.named("steps"));
  if (steps < 0) unsure("the steps");
  return {shape_tensor({steps}, of_out(call))};
}

Results eye(const Call& call) {
  auto n = call.integer(0), m = call.value(1).isInt() ? call.integer(1) : n;
  if (n < 0 || m < 0) unsure("the sizes");
  return {shape_tensor({n, m}, of_out(call))};
}

// The places of a triangle of a matrix.
Results lower(const Call& call) {
  auto rows = call.integer(0), columns = call.integer(1);
  if (rows < 0 || columns < 0) unsure("the sizes");
  return {
      shape_tensor({2, at::native::get_tril_size(rows, columns, call.integer(2))}, call.dtype(3).value_or(at::kLong))};
}

Results upper(const Call& call) {
  auto rows = call.integer(0), columns = call.integer(1);
  if (rows < 0 || columns < 0) unsure("the sizes");
  auto below = at::native::get_tril_size(rows, columns, call.integer(2) - 1);
  return {shape_tensor({2, rows * columns - below}, call.dtype(3).value_or(at::kLong))};
}

// As many places as asked for, however many elements are not zero.
Results places_of_nonzero(const Call& call) {
  if (call.integer(1) < 0) unsure("the size");
  return {shape_tensor({call.integer(1), call.tensor(0).dim()}, at::kLong)};
}

// Whether a number is among the elements of a tensor.
Results is_in(const Call& call) {
  auto dtype = call.tensor(1).scalar_type();
  bool plain = dtype == at::kFloat || dtype == at::kDouble || (c10::isIntegralType(dtype, false) && dtype <= at::kLong);
  if (!plain || call.value(0).isComplexDouble() || call.value(0).isBool()) unsure("a dtype");
  return {shape_tensor({}, at::kBool)};
}

// Sobol sequences: the state is written in place.
Results sobol_state(const Call& call) {
  if (call.tensor(0).scalar_type() != at::kLong || call.tensor(0).dim() != 2) unsure("the state");
  return {call.tensor(0)};
}

Results sobol_draw(const Call& call) {
  auto last = call.tensor(0), state = call.tensor(2);
  auto count = call.integer(1), dimension = call.integer(3);
  auto dtype = call.dtype(5).value_or(at::kFloat);
  if (last.scalar_type() != at::kLong || last.dim() != 1 || last.size(0) != dimension || count < 1 ||
      state.scalar_type() != at::kLong || state.dim() != 2 || state.size(0) != dimension ||
      !c10::isFloatingType(dtype)) {
    unsure("the state");
  }
  return {shape_tensor({count, dimension}, dtype), contiguous(last)};
}

Results zeros_of_sizes(const Call& call) { return {shape_tensor(call.ints(1), call.tensor(0).scalar_type())}; }

}  // namespace

Rules indexing_rules() {
  return {
      {index_select, {"index_select"}},
      {embedding_backward, {"embedding_dense_backward"}},
      {bags<true>, {"_embedding_bag"}},
      {bags<false>, {"_embedding_bag_forward_only"}},
      {bags_backward, {"_embedding_bag_backward", "_embedding_bag_dense_backward"}},
      {sample_weights_backward, {"_embedding_bag_per_sample_weights_backward"}},
      {renormed, {"embedding_renorm_"}},
      {take, {"take"}},
      {flip, {"flip"}},
      {roll, {"roll"}},
      {places, {"searchsorted.*", "bucketize.*"}},
      {put, {"_index_put_impl_"}},
      {put_flat, {"put_"}},
      {index_fill, {"index_fill_.int_Scalar", "index_fill_.int_Tensor"}},
      {drawn, {"multinomial"}},
      {arange, {"arange.start_out"}},
      {spaced, {"linspace.out", "logspace.out"}},
      {eye, {"eye.out", "eye.m_out"}},
      {lower, {"tril_indices"}},
      {upper, {"triu_indices"}},
      {places_of_nonzero, {"nonzero_static", "nonzero_static.out"}},
      {is_in, {"isin.Scalar_Tensor", "isin.Scalar_Tensor_out"}},
      {sobol_state, {"_sobol_engine_initialize_state_", "_sobol_engine_scramble_"}},
      {sobol_draw, {"_sobol_engine_draw"}},
      {zeros_of_sizes, {"unfold_backward"}},
  };
}

}  // namespace remora
