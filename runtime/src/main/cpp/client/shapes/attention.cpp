// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Scaled dot product attention, as CPU nodes compute it.
#include "client/shapes/rule.h"

namespace remora {

namespace {

// A tensor of sizes (batch, heads, length, width) whose memory is in the order (batch, length, heads, width).
at::Tensor heads_inside(const at::Tensor& like) {
  return shape_tensor({like.size(0), like.size(2), like.size(1), like.size(3)}, like.scalar_type()).transpose(1, 2);
}

Results flash(const Call& call) {
  auto query = call.tensor(0), key = call.tensor(1), value = call.tensor(2);
  if (query.dim() != 4 || key.dim() != 4 || value.dim() != 4 || key.sizes() != value.sizes() ||
      query.size(3) != key.size(3)) {
    unsure("the operands' shapes");
  }
  auto dtype = query.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto out = at::empty_like(query.transpose(1, 2)).transpose(1, 2);
  return {out, shape_tensor({query.size(0), query.size(2), query.size(1)}, dtype).transpose(1, 2)};
}

Results flash_backward(const Call& call) {
  return {heads_inside(call.tensor(1)), heads_inside(call.tensor(2)), heads_inside(call.tensor(3))};
}

}  // namespace

Rules attention_rules() {
  return {
      {flash, {"_scaled_dot_product_flash_attention_for_cpu"}},
      {flash_backward, {"_scaled_dot_product_flash_attention_for_cpu_backward"}},
  };
}

}  // namespace remora
