// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Elementwise operators that are not recorded whole (structured.cpp). libtorch computes the shapes of their results
// before the recorder sees the call.
// - It refuses operands on two devices with a plain error. These kernels turn it into a CrossMachineException, which
//   names the fix.
// - On the CPU, and only there, it converts operands of another dtype before it takes the results' strides from them.
//   These kernels do so for a node that computes on its CPU.
#include <ATen/CompositeExplicitAutogradNonFunctionalFunctions.h>
#include <ATen/native/TypeProperties.h>
#include <c10/core/DefaultDtype.h>
#include <torch/library.h>

#include "client/kernels/structured.h"
#include "client/machine/machine.h"
#include "client/machine/slots.h"

namespace remora {

namespace {

constexpr std::string_view kTwoDevices = "Expected all tensors to be on the same device";

// The dtype to which libtorch converts the operands.
enum class Converts { kNothing, kCommon, kFloating };

// A conversion affects the results' strides if it changes the operand's strides.
template <class T>
bool may_change_strides(const T&) {
  return false;
}
bool may_change_strides(const at::Tensor& t) {
  return t.defined() && t.dim() > 0 && t.device().type() == kRemora && !t.is_non_overlapping_and_dense();
}
bool may_change_strides(const std::optional<at::Tensor>& t) { return t.has_value() && may_change_strides(*t); }

template <class T>
void add_dtype(at::native::ResultTypeState&, const T&) {}
void add_dtype(at::native::ResultTypeState& state, const at::Tensor& t) {
  if (t.defined()) state = at::native::update_result_type_state(t, state);
}
void add_dtype(at::native::ResultTypeState& state, const std::optional<at::Tensor>& t) {
  if (t.has_value()) add_dtype(state, *t);
}

template <class T>
const T& converted(const T& argument, c10::ScalarType) {
  return argument;
}
at::Tensor converted(const at::Tensor& t, c10::ScalarType dtype) {
  return may_change_strides(t) && t.scalar_type() != dtype && !machine_of(t.device()).on_cuda() ? t.to(dtype) : t;
}
std::optional<at::Tensor> converted(const std::optional<at::Tensor>& t, c10::ScalarType dtype) {
  return t.has_value() ? std::optional<at::Tensor>(converted(*t, dtype)) : t;
}

template <class Signature, Signature* kernel, Converts converts>
struct Checked;

template <class R, class... A, R (*kernel)(A...), Converts converts>
struct Checked<R(A...), kernel, converts> {
  static R call(A... arguments) {
    try {
      if constexpr (converts != Converts::kNothing && !std::is_reference_v<R>) {
        if (C10_UNLIKELY((may_change_strides(arguments) || ...))) {
          at::native::ResultTypeState state;
          (add_dtype(state, arguments), ...);
          auto dtype = at::native::result_type(state);
          if (converts == Converts::kFloating && c10::isIntegralType(dtype, true)) {
            dtype = c10::get_default_dtype_as_scalartype();
          }
          return kernel(converted(arguments, dtype)...);
        }
      }
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
using Leaky = Tensor(const Tensor&, const Tensor&, const Scalar&, bool);
using Clipped = Tensor(const Tensor&, const Tensor&, std::optional<double>);
using Approximated = Tensor(const Tensor&, const Tensor&, c10::string_view);
using Softened = Tensor(const Tensor&, const Tensor&, const Scalar&, const Scalar&);
using Exponential = Tensor(const Tensor&, const Scalar&, const Scalar&, const Scalar&, bool, const Tensor&);
using SmoothLoss = Tensor(const Tensor&, const Tensor&, int64_t, double);

namespace kernels = at::compositeexplicitautogradnonfunctional;

}  // namespace

#define REMORA_CONVERTING(name, signature, kernel, converts) \
  m.impl(name, c10::KernelFunction::makeFromUnboxedFunction( \
                   TORCH_FN((Checked<signature, kernels::kernel, Converts::converts>::call))))
#define REMORA_CHECKED(name, signature, kernel) REMORA_CONVERTING(name, signature, kernel, kCommon)
#define REMORA_BOTH_CONVERTING(operation, overload, signature, converts)  \
  REMORA_CONVERTING(#operation overload, signature, operation, converts); \
  REMORA_CONVERTING(#operation "_" overload, signature##InPlace, operation##_, kNothing)
#define REMORA_BOTH(operation, overload, signature) REMORA_BOTH_CONVERTING(operation, overload, signature, kCommon)
#define REMORA_FLOATING(operation, overload) REMORA_BOTH_CONVERTING(operation, overload, Binary, kFloating)
#define REMORA_BACKWARD(operation, signature) \
  REMORA_CONVERTING(#operation "_backward", signature, operation##_backward, kNothing)
#define REMORA_SPECIAL(operation) REMORA_CONVERTING("special_" #operation, Binary, special_##operation, kFloating)

void elementwise_kernels(StructuredKernels& m) {
  REMORA_BOTH(add, ".Tensor", Scaled);
  REMORA_BOTH(sub, ".Tensor", Scaled);
  REMORA_BOTH(mul, ".Tensor", Binary);
  REMORA_FLOATING(div, ".Tensor");
  REMORA_BOTH(div, ".Tensor_mode", Rounded);
  REMORA_BOTH(remainder, ".Tensor", Binary);
  REMORA_BOTH(fmod, ".Tensor", Binary);
  REMORA_CONVERTING("pow.Tensor_Tensor", Binary, pow, kCommon);
  REMORA_CONVERTING("pow_.Tensor", BinaryInPlace, pow_, kNothing);
  REMORA_FLOATING(atan2, "");
  REMORA_BOTH(hypot, "", Binary);
  REMORA_FLOATING(copysign, ".Tensor");
  REMORA_FLOATING(xlogy, ".Tensor");
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
  REMORA_BOTH_CONVERTING(heaviside, "", Binary, kNothing);
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
  REMORA_BOTH_CONVERTING(lerp, ".Tensor", Ternary, kNothing);
  REMORA_BOTH_CONVERTING(lerp, ".Scalar", Scaled, kNothing);
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
  REMORA_BACKWARD(hardsigmoid, Binary);
  REMORA_BACKWARD(tanh, Binary);
  REMORA_BACKWARD(sigmoid, Binary);
  REMORA_BACKWARD(threshold, Scaled);
  REMORA_BACKWARD(softshrink, Scaled);
  REMORA_BACKWARD(hardshrink, Scaled);
  REMORA_BACKWARD(leaky_relu, Leaky);
  REMORA_BACKWARD(logit, Clipped);
  REMORA_BACKWARD(gelu, Approximated);
  REMORA_BACKWARD(softplus, Softened);
  REMORA_BACKWARD(elu, Exponential);
}

}  // namespace remora
