// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Elementwise operators whose operands are on two devices. libtorch computes the shapes of their results before the
// recorder sees the call, and refuses such operands with a plain error. These kernels turn it into a
// CrossMachineException, which names the fix.
#include <ATen/CompositeExplicitAutogradNonFunctionalFunctions.h>
#include <torch/library.h>

#include "client/machine.h"

namespace remora {

namespace {

constexpr std::string_view kTwoDevices = "Expected all tensors to be on the same device";

template <class Signature, Signature* kernel>
struct Checked;

template <class R, class... A, R (*kernel)(A...)>
struct Checked<R(A...), kernel> {
  static R call(A... arguments) {
    try {
      return kernel(std::forward<A>(arguments)...);
    } catch (const c10::Error& e) {
      std::string_view text = e.what_without_backtrace();
      if (text.substr(0, kTwoDevices.size()) != kTwoDevices) {
        throw;
      }
      raise("CrossMachineException", std::string(text.substr(0, text.find('\n'))) +
                                         " Move one of them to the other's device with tensor.to(device).");
    }
  }
};

using at::Scalar;
using at::Tensor;
using Binary = Tensor(const Tensor&, const Tensor&);
using BinaryInPlace = Tensor&(Tensor&, const Tensor&);
using Scaled = Tensor(const Tensor&, const Tensor&, const Scalar&);
using ScaledInPlace = Tensor&(Tensor&, const Tensor&, const Scalar&);
using Rounded = Tensor(const Tensor&, const Tensor&, std::optional<c10::string_view>);
using RoundedInPlace = Tensor&(Tensor&, const Tensor&, std::optional<c10::string_view>);
using Clamped = Tensor(const Tensor&, const std::optional<Tensor>&, const std::optional<Tensor>&);
using ClampedInPlace = Tensor&(Tensor&, const std::optional<Tensor>&, const std::optional<Tensor>&);
using Ternary = Tensor(const Tensor&, const Tensor&, const Tensor&);
using TernaryInPlace = Tensor&(Tensor&, const Tensor&, const Tensor&);
using TernaryScaled = Tensor(const Tensor&, const Tensor&, const Tensor&, const Scalar&);
using TernaryScaledInPlace = Tensor&(Tensor&, const Tensor&, const Tensor&, const Scalar&);
using Loss = Tensor(const Tensor&, const Tensor&, int64_t);
using SmoothLoss = Tensor(const Tensor&, const Tensor&, int64_t, double);

namespace kernels = at::compositeexplicitautogradnonfunctional;

}  // namespace

#define REMORA_CHECKED(name, signature, kernel) m.impl(name, TORCH_FN((Checked<signature, kernels::kernel>::call)))
#define REMORA_BOTH(operation, overload, signature)                              \
  REMORA_CHECKED(#operation overload, signature, operation);                     \
  REMORA_CHECKED(#operation "_" overload, signature##InPlace, operation##_)
#define REMORA_SPECIAL(operation) REMORA_CHECKED("special_" #operation, Binary, special_##operation)

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  REMORA_BOTH(add, ".Tensor", Scaled);
  REMORA_BOTH(sub, ".Tensor", Scaled);
  REMORA_BOTH(mul, ".Tensor", Binary);
  REMORA_BOTH(div, ".Tensor", Binary);
  REMORA_BOTH(div, ".Tensor_mode", Rounded);
  REMORA_BOTH(remainder, ".Tensor", Binary);
  REMORA_BOTH(fmod, ".Tensor", Binary);
  REMORA_BOTH(pow, ".Tensor_Tensor", Binary);
  REMORA_BOTH(atan2, "", Binary);
  REMORA_BOTH(hypot, "", Binary);
  REMORA_BOTH(copysign, ".Tensor", Binary);
  REMORA_BOTH(xlogy, ".Tensor", Binary);
  REMORA_CHECKED("maximum", Binary, maximum);
  REMORA_CHECKED("minimum", Binary, minimum);
  REMORA_CHECKED("fmax", Binary, fmax);
  REMORA_CHECKED("fmin", Binary, fmin);
  REMORA_CHECKED("logaddexp", Binary, logaddexp);
  REMORA_CHECKED("logaddexp2", Binary, logaddexp2);
  REMORA_BOTH(clamp, ".Tensor", Clamped);
  REMORA_BOTH(clamp_max, ".Tensor", Binary);
  REMORA_BOTH(clamp_min, ".Tensor", Binary);
  REMORA_BOTH(gcd, "", Binary);
  REMORA_BOTH(lcm, "", Binary);
  REMORA_BOTH(heaviside, "", Binary);
  REMORA_BOTH(igamma, "", Binary);
  REMORA_BOTH(igammac, "", Binary);
  REMORA_BOTH(nextafter, "", Binary);
  REMORA_BOTH(eq, ".Tensor", Binary);
  REMORA_BOTH(ne, ".Tensor", Binary);
  REMORA_BOTH(lt, ".Tensor", Binary);
  REMORA_BOTH(le, ".Tensor", Binary);
  REMORA_BOTH(gt, ".Tensor", Binary);
  REMORA_BOTH(ge, ".Tensor", Binary);
  REMORA_BOTH(bitwise_and, ".Tensor", Binary);
  REMORA_BOTH(bitwise_or, ".Tensor", Binary);
  REMORA_BOTH(bitwise_xor, ".Tensor", Binary);
  REMORA_BOTH(bitwise_left_shift, ".Tensor", Binary);
  REMORA_BOTH(bitwise_right_shift, ".Tensor", Binary);
  REMORA_BOTH(addcmul, "", TernaryScaled);
  REMORA_BOTH(addcdiv, "", TernaryScaled);
  REMORA_BOTH(lerp, ".Tensor", Ternary);
  REMORA_BOTH(lerp, ".Scalar", Scaled);
  REMORA_SPECIAL(xlog1py);
  REMORA_SPECIAL(zeta);
  REMORA_SPECIAL(chebyshev_polynomial_t);
  REMORA_SPECIAL(chebyshev_polynomial_u);
  REMORA_SPECIAL(chebyshev_polynomial_v);
  REMORA_SPECIAL(chebyshev_polynomial_w);
  REMORA_SPECIAL(shifted_chebyshev_polynomial_t);
  REMORA_SPECIAL(shifted_chebyshev_polynomial_u);
  REMORA_SPECIAL(shifted_chebyshev_polynomial_v);
  REMORA_SPECIAL(shifted_chebyshev_polynomial_w);
  REMORA_SPECIAL(hermite_polynomial_h);
  REMORA_SPECIAL(hermite_polynomial_he);
  REMORA_SPECIAL(laguerre_polynomial_l);
  REMORA_SPECIAL(legendre_polynomial_p);
  REMORA_CHECKED("mse_loss", Loss, mse_loss);
  REMORA_CHECKED("smooth_l1_loss", SmoothLoss, smooth_l1_loss);
}

}  // namespace remora
