// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Matrix products and distances.
#include <ATen/ExpandUtils.h>

#include "client/shapes/rule.h"

namespace remora {

namespace {

Results add_batches(const Call& call) {
  auto a = call.tensor(1), b = call.tensor(2);
  if (a.dim() != 3 || b.dim() != 3 || a.size(2) != b.size(1) || a.size(0) != b.size(0)) unsure("the operands' shapes");
  return {shape_tensor({a.size(1), b.size(2)}, call.tensor(0).scalar_type())};
}

// The distances of the rows of two matrices, or of batches of them.
Results distances(const Call& call) {
  auto a = call.tensor(0), b = call.tensor(1);
  if (a.dim() < 2 || b.dim() < 2 || a.size(-1) != b.size(-1) || a.scalar_type() != b.scalar_type())
    unsure("the operands");
  auto sizes = at::infer_size_dimvector(a.sizes().slice(0, a.dim() - 2), b.sizes().slice(0, b.dim() - 2));
  sizes.push_back(a.size(-2));
  sizes.push_back(b.size(-2));
  return {shape_tensor(sizes, a.scalar_type())};
}

// In place: the sum has the tensor's own sizes.
Results add_batches_in_place(const Call& call) {
  auto self = call.tensor(0);
  if (add_batches(call)[0].toTensor().sizes() != self.sizes()) unsure("the operands' shapes");
  return {self};
}

Results distances_backward(const Call& call) {
  auto a = call.tensor(1), b = call.tensor(2);
  if (a.dim() < 2 || b.dim() < 2 || a.scalar_type() != b.scalar_type()) unsure("the operands");
  auto sizes = at::infer_size_dimvector(a.sizes().slice(0, a.dim() - 2), b.sizes().slice(0, b.dim() - 2));
  for (auto size : a.sizes().slice(a.dim() - 2)) sizes.push_back(size);
  if (b.numel() == 0 || c10::multiply_integers(sizes) == 0) unsure("no elements");
  return {shape_tensor(sizes, a.scalar_type())};
}

// The distances between the rows of one matrix.
Results distances_within(const Call& call) {
  auto rows = call.tensor(0);
  if (rows.dim() != 2 || !rows.is_floating_point()) unsure("no matrix");
  auto n = rows.size(0);
  return {shape_tensor({n * (n - 1) / 2}, rows.scalar_type())};
}

Results integer_product(const Call& call) {
  auto a = call.tensor(0), b = call.tensor(1);
  if (a.dim() != 2 || b.dim() != 2 || a.size(1) != b.size(0) || a.scalar_type() != at::kChar ||
      b.scalar_type() != at::kChar) {
    unsure("the operands");
  }
  return {shape_tensor({a.size(0), b.size(1)}, at::kInt)};
}

Results weight_norm(const Call& call) {
  auto v = call.tensor(0), g = call.tensor(1);
  if (v.scalar_type() != g.scalar_type()) unsure("two dtypes");
  auto dtype = c10::isReducedFloatingType(g.scalar_type()) ? at::kFloat : g.scalar_type();
  return {contiguous(v), shape_tensor(g.sizes(), g.strides(), dtype)};
}

Results weight_norm_backward(const Call& call) { return {contiguous(call.tensor(1)), contiguous(call.tensor(2))}; }

}  // namespace

Rules linear_algebra_rules() {
  return {
      {add_batches, {"addbmm"}},
      {add_batches_in_place, {"addbmm_"}},
      {distances, {"_cdist_forward"}},
      {distances_backward, {"_cdist_backward"}},
      {distances_within, {"_pdist_forward"}},
      {like_second, {"_pdist_backward"}},
      {integer_product, {"_int_mm"}},
      {weight_norm, {"_weight_norm_interface"}},
      {weight_norm_backward, {"_weight_norm_interface_backward"}},
  };
}

}  // namespace remora
