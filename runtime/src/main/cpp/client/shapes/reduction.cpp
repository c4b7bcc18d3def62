// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Operators that reduce dimensions.
#include "client/shapes/rule.h"

namespace remora {

namespace {

c10::DimVector dims_of(const Call& call) {
  if (!call.has("dim")) return {};
  return call.ints(call.named("dim"));
}

bool keeps(const Call& call) { return call.has("keepdim") && call.flag(call.named("keepdim")); }

at::Tensor of_first(const Call& call, c10::ScalarType dtype) {
  return shape_tensor(reduced(call.tensor(0), dims_of(call), keeps(call)), dtype);
}

c10::ScalarType real_dtype(const at::Tensor& t) {
  if (!t.is_floating_point() && !t.is_complex()) unsure("a dtype that is not floating point");
  return c10::toRealValueType(t.scalar_type());
}

Results variance(const Call& call) { return {of_first(call, real_dtype(call.tensor(0)))}; }
Results variance_and_mean(const Call& call) {
  return {of_first(call, real_dtype(call.tensor(0))), of_first(call, call.tensor(0).scalar_type())};
}

Results all_elements(const Call& call) {
  if (call.tensor(0).numel() == 0) unsure("no elements");
  return {shape_tensor({}, call.tensor(0).scalar_type())};
}

c10::ScalarType summed(const Call& call) {
  auto dtype = call.has("dtype") ? call.dtype(call.named("dtype")) : std::nullopt;
  if (dtype) return *dtype;
  return c10::isIntegralType(call.tensor(0).scalar_type(), true) ? at::kLong : call.tensor(0).scalar_type();
}

Results sum(const Call& call) { return {of_first(call, summed(call))}; }
Results count(const Call& call) { return {of_first(call, at::kLong)}; }

Results value_and_index(const Call& call) {
  auto t = call.tensor(0);
  auto dim = call.integer(call.named("dim"));
  auto sizes = reduced(t, {dim}, keeps(call));
  auto length = t.dim() == 0 ? 1 : t.size(dim);
  if (length == 0) unsure("no elements");
  if (call.has("k") && (call.integer(call.named("k")) < 1 || call.integer(call.named("k")) > length))
    unsure("the place");
  return {shape_tensor(sizes, t.scalar_type()), shape_tensor(sizes, at::kLong)};
}

Results product_of_vectors(const Call& call) {
  auto a = call.tensor(0), b = call.tensor(1);
  if (a.dim() != 1 || a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) unsure("operands differ");
  if (a.is_conj() || b.is_conj()) unsure("a conjugate");
  return {shape_tensor({}, a.scalar_type())};
}

Results cumulated(const Call& call) {
  reduced(call.tensor(0), {call.integer(1)}, true);  // checks the dimension
  return {contiguous(call.tensor(0))};
}

// libtorch's fallback for conjugates and negatives writes a copied argument back from the operator's first result. These
// operators have no result, so it reads past the end of the stack, unless the operator throws. The CPU and CUDA refuse
// complex dtypes; the node is asked, because a refusal that comes with a later read would be too late.
Results extremes_and_indices(const Call& call) {
  if (call.tensor(0).is_complex() || call.tensor(1).is_complex()) unsure("a complex dtype");
  return nothing(call);
}

Results histogram(const Call& call) {
  if (!call.tensor(0).is_floating_point() || call.integer(1) < 1) unsure("the input");
  return {shape_tensor({call.integer(1)}, call.tensor(0).scalar_type())};
}

Results trace(const Call& call) {
  if (call.tensor(0).dim() != 2) unsure("no matrix");
  return {shape_tensor({}, summed(call))};
}

}  // namespace

Rules reduction_rules() {
  return {
      {variance, {"std.correction", "var.correction"}},
      {variance_and_mean, {"std_mean.correction", "var_mean.correction"}},
      {all_elements, {"max", "min", "median", "nanmedian"}},
      {sum, {"nansum", "prod"}},
      {count, {"count_nonzero.dim_IntList"}},
      {value_and_index, {"mode", "mode.values", "kthvalue.values", "median.dim_values", "nanmedian.dim_values"}},
      {product_of_vectors, {"dot", "vdot"}},
      {cumulated, {"_logcumsumexp"}},
      {histogram, {"histc"}},
      {extremes_and_indices, {"_cummax_helper", "_cummin_helper"}},
      {trace, {"trace"}},
  };
}

}  // namespace remora
