// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Fourier transforms. A libtorch with MKL, such as that of PyTorch's packages, lays a result out by the strides of the
// input. One without it, such as that of bytedeco, makes every result contiguous. The program sees what its own libtorch
// would give it, whichever one the node has.
#include <ATen/Context.h>

#include <algorithm>
#include <numeric>

#include "client/shapes/rule.h"

namespace remora {

namespace {

c10::DimVector dims_of(const Call& call) {
  auto self = call.tensor(0);
  auto dims = call.ints(1);
  if (dims.empty() || self.numel() == 0) unsure("nothing to transform");
  reduced(self, dims, true);  // checks the dimensions
  for (auto& dim : dims) dim = c10::maybe_wrap_dim(dim, self.dim());
  return dims;
}

// MKL transforms the dimensions `dims`, in this order, of a batch that all others make. The batch comes first, its
// dimensions in the order of the input's strides; then each transformed dimension.
at::Tensor transformed(const at::Tensor& self, c10::IntArrayRef sizes, c10::IntArrayRef dims, c10::ScalarType dtype) {
  if (!at::hasMKL()) return shape_tensor(sizes, dtype);
  c10::DimVector order(self.dim());
  std::iota(order.begin(), order.end(), 0);
  auto batch = std::partition(order.begin(), order.end(),
                              [&](int64_t d) { return std::find(dims.begin(), dims.end(), d) == dims.end(); });
  std::sort(order.begin(), batch, [&](int64_t a, int64_t b) { return self.stride(a) > self.stride(b); });
  std::copy(dims.begin(), dims.end(), batch);
  c10::DimVector strides(self.dim());
  int64_t stride = 1;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    strides[*d] = stride;
    stride *= sizes[*d];
  }
  return shape_tensor(sizes, strides, dtype);
}

// The first `count` of the dimensions in the order of the input's strides.
c10::DimVector sorted(const at::Tensor& self, c10::DimVector dims, size_t count) {
  std::sort(dims.begin(), dims.begin() + static_cast<int64_t>(count),
            [&](int64_t a, int64_t b) { return self.stride(a) > self.stride(b); });
  return dims;
}

at::Tensor complex_to_complex(const at::Tensor& self, const c10::DimVector& dims) {
  return transformed(self, self.sizes(), sorted(self, dims, dims.size()), self.scalar_type());
}

Results complex_to_complex(const Call& call) {
  if (!call.tensor(0).is_complex()) unsure("a dtype");
  return {complex_to_complex(call.tensor(0), dims_of(call))};
}

Results real_to_complex(const Call& call) {
  auto self = call.tensor(0);
  if (!self.is_floating_point()) unsure("a dtype");
  auto dims = dims_of(call);
  c10::DimVector sizes(self.sizes());
  if (call.flag(3)) sizes[dims.back()] = sizes[dims.back()] / 2 + 1;
  return {transformed(self, sizes, sorted(self, dims, dims.size() - 1), c10::toComplexType(self.scalar_type()))};
}

Results complex_to_real(const Call& call) {
  auto self = call.tensor(0);
  if (!self.is_complex() || call.integer(3) < 1) unsure("a dtype or a size");
  auto dims = dims_of(call);
  auto last = dims.back();
  dims.pop_back();
  if (!dims.empty()) self = complex_to_complex(self, dims);
  c10::DimVector sizes(self.sizes());
  sizes[last] = call.integer(3);
  return {transformed(self, sizes, {last}, c10::toRealValueType(self.scalar_type()))};
}

}  // namespace

Rules fft_rules() {
  return {
      {complex_to_complex, {"_fft_c2c"}},
      {real_to_complex, {"_fft_r2c"}},
      {complex_to_real, {"_fft_c2r"}},
      {resized<complex_to_complex>, {"_fft_c2c.out"}},
      {resized<real_to_complex>, {"_fft_r2c.out"}},
      {resized<complex_to_real>, {"_fft_c2r.out"}},
  };
}

}  // namespace remora
