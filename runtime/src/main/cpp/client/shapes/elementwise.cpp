// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Operators that compute each element of their result from the elements at the same place, and those that fill.
#include <ATen/ExpandUtils.h>
#include <ATen/native/TypeProperties.h>

#include "client/shapes/rule.h"

namespace remora {

namespace {

c10::ScalarType floating(c10::ScalarType dtype) {
  return c10::isIntegralType(dtype, true) ? c10::get_default_dtype_as_scalartype() : dtype;
}

Results same(const Call& call) { return {elementwise({call.tensor(0)}, call.tensor(0).scalar_type())}; }
Results same_floating(const Call& call) {
  return {elementwise({call.tensor(0)}, floating(call.tensor(0).scalar_type()))};
}
Results floating_contiguous(const Call& call) {
  return {shape_tensor(call.tensor(0).sizes(), floating(call.tensor(0).scalar_type()))};
}
Results same_contiguous(const Call& call) { return {contiguous(call.tensor(0))}; }
Results same_bool(const Call& call) { return {elementwise({call.tensor(0)}, at::kBool)}; }
Results real(const Call& call) {
  auto dtype = call.tensor(0).scalar_type();
  if (c10::isComplexType(dtype)) return {shape_tensor(call.tensor(0).sizes(), c10::toRealValueType(dtype))};
  return {elementwise({call.tensor(0)}, floating(dtype))};
}

// On the CPU, an operand of another dtype is converted before the result takes its strides from it. A conversion keeps
// the strides of a dense tensor.
void check_conversions(c10::ArrayRef<at::Tensor> inputs, c10::ScalarType common) {
  for (const auto& t : inputs) {
    if (t.dim() > 0 && t.scalar_type() != common && !t.is_non_overlapping_and_dense()) unsure("a conversion");
  }
}

// Of the first two tensors, with the dtype of the first; the dtypes must be equal.
Results of_two(const Call& call) {
  auto a = call.tensor(0), b = call.tensor(1);
  if (a.scalar_type() != b.scalar_type()) unsure("two dtypes");
  return {elementwise({a, b}, a.scalar_type())};
}

Results dropout_backward(const Call& call) {
  return {elementwise({call.tensor(0), call.tensor(1)}, floating(call.tensor(0).scalar_type()))};
}

Results promoted(const Call& call) {
  at::native::ResultTypeState state = {};
  std::vector<at::Tensor> inputs;
  for (size_t i = 0; i < 2; i++) {
    if (call.value(i).isTensor()) {
      inputs.push_back(call.tensor(i));
      state = at::native::update_result_type_state(call.tensor(i), state);
    } else {
      auto number = c10::scalar_to_tensor(call.value(i).toScalar());
      number.unsafeGetTensorImpl()->set_wrapped_number(true);
      state = at::native::update_result_type_state(number, state);
    }
  }
  auto dtype = at::native::result_type(state);
  check_conversions(inputs, dtype);
  return {elementwise(inputs, dtype)};
}

Results chosen(const Call& call) {
  auto dtype = at::result_type(call.tensor(1), call.tensor(2));
  if (call.tensor(0).scalar_type() != at::kBool && call.tensor(0).scalar_type() != at::kByte) {
    unsure("a condition's dtype");
  }
  return {elementwise({call.tensor(0), call.tensor(1), call.tensor(2)}, dtype)};
}

Results log_sigmoid_forward(const Call& call) {
  if (for_cuda()) unsure("the buffer");
  auto t = call.tensor(0);
  return {contiguous(t), contiguous(t)};
}
Results log_sigmoid_backward(const Call& call) { return {at::empty_like(call.tensor(0))}; }

Results prelu_backward(const Call& call) {
  auto t = elementwise({call.tensor(1), call.tensor(2), call.tensor(0)}, call.tensor(1).scalar_type());
  return {t, at::empty_like(t)};
}

// A loss and its reduction, which follows the target.
Results loss(const Call& call) {
  auto input = call.tensor(0), target = call.tensor(1);
  if (input.scalar_type() != target.scalar_type()) unsure("two dtypes");
  if (call.has("delta") && !(call.number(call.named("delta")) > 0)) unsure("a parameter");
  auto reduction = call.integer(call.named("reduction"));
  if (reduction != 0) return {shape_tensor({}, input.scalar_type())};
  return {elementwise({input, target}, input.scalar_type())};
}

Results loss_same_sizes(const Call& call) {
  if (call.tensor(0).sizes() != call.tensor(1).sizes()) unsure("two sizes");
  return loss(call);
}

// The gradient of a loss: the second argument's.
Results loss_backward(const Call& call) {
  auto input = call.tensor(1), target = call.tensor(2);
  if (input.scalar_type() != target.scalar_type() || input.sizes() != target.sizes()) unsure("operands differ");
  return {contiguous(input)};
}

Results entropy_backward(const Call& call) {
  loss_backward(call);  // checks the arguments
  return {at::empty_like(call.tensor(1))};
}

// In place, with operands that broadcast to the first tensor and whose values it can hold.
Results in_place(const Call& call) {
  auto self = call.tensor(0);
  for (size_t i = 1; i < call.size(); i++) {
    if (!call.value(i).isTensor() || !call.given(i)) continue;
    auto t = call.tensor(i);
    if (call.name(i) == "source") {  // any number of elements
      if (t.scalar_type() != self.scalar_type()) unsure("two dtypes");
      continue;
    }
    if (!at::is_expandable_to(t.sizes(), self.sizes())) unsure("an operand does not broadcast");
    if (call.name(i) == "value" && t.dim() != 0) unsure("a value of several elements");
    bool fits = call.name(i) == "mask" ? t.scalar_type() == at::kBool
                                       : c10::canCast(t.scalar_type(), self.scalar_type());
    if (!fits) unsure("two dtypes");
  }
  return {self};
}

Results filled(const Call& call) { return {call.tensor(0)}; }
Results filled_floating(const Call& call) {
  if (!call.tensor(0).is_floating_point()) unsure("a dtype");
  return {call.tensor(0)};
}

// Filled with random numbers whose parameters are in range. Some distributions are of integers, too.
template <bool valid(double a, double b), bool integers = false>
Results drawn(const Call& call) {
  auto self = call.tensor(0);
  auto number = [&](size_t i) { return i < call.size() && call.value(i).isScalar() ? call.number(i) : 0; };
  if (!valid(number(1), number(2))) unsure("a parameter");
  bool fits = self.is_floating_point() || (integers && c10::isIntegralType(self.scalar_type(), false));
  if (!fits) unsure("a dtype");
  return {self};
}

// Random numbers with a parameter for each, of the same dtype and sizes in all tensors.
Results drawn_for_each(const Call& call) {
  auto first = call.tensor(0);
  if (!first.is_floating_point()) unsure("a dtype");
  for (size_t i = 1; i < call.size(); i++) {
    if (!call.value(i).isTensor() || !call.given(i)) continue;
    if (call.tensor(i).scalar_type() != first.scalar_type() || call.tensor(i).sizes() != first.sizes()) {
      unsure("the parameters");
    }
  }
  return {contiguous(first)};
}

// Gradient scaling: one number each, and gradients of floating point.
Results unscaled(const Call& call) {
  for (size_t i = 1; i < 3; i++) {
    if (call.tensor(i).numel() != 1 || call.tensor(i).scalar_type() != at::kFloat) unsure("a scale");
  }
  for (const auto& t : call.value(0).toListRef()) {
    if (!t.toTensor().is_floating_point()) unsure("a gradient's dtype");
  }
  return {};
}

Results updated_scale(const Call& call) {
  for (size_t i = 0; i < 3; i++) {
    if (call.tensor(i).numel() != 1 || call.tensor(i).scalar_type() != (i == 1 ? at::kInt : at::kFloat)) {
      unsure("a scale");
    }
  }
  return filled(call);
}

bool is_probability(double p, double) { return p >= 0 && p <= 1; }
bool inside_probability(double p, double) { return p > 0 && p < 1; }
bool first_positive(double a, double) { return a > 0; }
bool second_positive(double, double b) { return b > 0; }
bool second_not_negative(double, double b) { return b >= 0; }
bool ascending(double a, double b) { return a <= b; }

// What `rule` says, where the way of approximating is one that there is.
template <Rule rule>
Results approximated(const Call& call) {
  const auto& how = call.value(call.named("approximate")).toStringRef();
  if (how != "none" && how != "tanh") unsure("the approximation");
  return rule(call);
}

Results magnitude(const Call& call) {
  auto dtype = call.tensor(0).scalar_type();
  return {elementwise({call.tensor(0)}, c10::isComplexType(dtype) ? c10::toRealValueType(dtype) : dtype)};
}

Results compared(const Call& call) {
  std::vector<at::Tensor> inputs = {call.tensor(0), call.tensor(1)};
  check_conversions(inputs, at::result_type(inputs[0], inputs[1]));
  return {elementwise(inputs, at::kBool)};
}

// Complex numbers of two tensors of parts.
Results pair(const Call& call) {
  auto a = call.tensor(0), b = call.tensor(1);
  if (a.scalar_type() != b.scalar_type() || !a.is_floating_point()) unsure("the parts' dtypes");
  return {elementwise({a, b}, c10::toComplexType(a.scalar_type()))};
}

// (value - other * alpha), the other way round.
Results rsub(const Call& call) { return {at::sub(call.tensor(1), call.tensor(0), call.value(2).toScalar())}; }

Results frexp(const Call& call) {
  auto t = elementwise({call.tensor(0)}, call.tensor(0).scalar_type());
  return {t, shape_tensor(t.sizes(), t.strides(), at::kInt)};
}

Results glu_backward(const Call& call) {
  auto grad = call.tensor(0), self = call.tensor(1);
  auto dim = call.integer(2);
  if (self.dim() == 0 || dim < -self.dim() || dim >= self.dim() || grad.dim() != self.dim() ||
      self.size(dim) != 2 * grad.size(dim) || self.numel() != 2 * grad.numel()) {
    unsure("the gradient");
  }
  return {contiguous(self)};
}

// Normal numbers around means or with deviations that are tensors.
Results normal(const Call& call) {
  std::vector<at::Tensor> inputs;
  for (size_t i = 0; i < 2; i++) {
    if (call.value(i).isTensor()) inputs.push_back(call.tensor(i));
  }
  if (inputs.empty()) unsure("no tensor");
  if (inputs.size() == 2) return {contiguous(elementwise(inputs, inputs[0].scalar_type()))};
  return {in_format_of(inputs[0])};
}

Results noisy(const Call& call) {
  return {call.flag(call.named("training")) ? contiguous(call.tensor(0)) : same(call)[0]};
}

// Gradients that are written to an output of the input's sizes.
Results gradient_of_second(const Call& call) {
  auto out = call.tensor(call.size() - 1);
  if (out.sizes() != call.tensor(1).sizes()) unsure("an output's sizes");
  return {out};
}

Results outer_product_added(const Call& call) {
  auto a = call.tensor(1), b = call.tensor(2), self = call.tensor(0);
  if (a.dim() != 1 || b.dim() != 1 || a.scalar_type() != b.scalar_type() || self.scalar_type() != a.scalar_type() ||
      self.dim() == 0) {
    unsure("the operands");
  }
  c10::DimVector sizes = {a.size(0), b.size(0)};
  if (!at::is_expandable_to(self.sizes(), sizes)) unsure("the operands");
  return {elementwise({self.expand(sizes), a.unsqueeze(1), b}, a.scalar_type())};
}

}  // namespace

Rules elementwise_rules() {
  return {
      {same, {"relu", "hardswish", "hardtanh", "nan_to_num.out", "conj_physical.out", "celu.out"}},
      {same_floating, {"logit"}},
      {floating_contiguous, {"mvlgamma", "mvlgamma.out"}},
      {same_bool, {"isnan", "logical_not.out", "isinf.out"}},
      {real, {"angle"}},
      {same_contiguous, {"bernoulli.out"}},
      {magnitude, {"abs.out"}},
      {compared, {"logical_and.out", "logical_or.out", "logical_xor.out"}},
      {pair, {"complex.out", "polar.out"}},
      {of_two, {"hardswish_backward", "hardtanh_backward", "_prelu_kernel"}},
      {promoted, {"floor_divide", "remainder.Scalar_Tensor", "__lshift__.*", "__rshift__.*"}},
      {chosen, {"where.self"}},
      {log_sigmoid_forward, {"log_sigmoid_forward"}},
      {log_sigmoid_backward, {"log_sigmoid_backward"}},
      {prelu_backward, {"_prelu_kernel_backward"}},
      {loss, {"huber_loss"}},
      {loss_same_sizes, {"binary_cross_entropy"}},
      {loss_backward, {"mse_loss_backward"}},
      {entropy_backward, {"binary_cross_entropy_backward"}},
      {in_place,
       {"masked_fill_.*", "masked_scatter_", "floor_divide_.Tensor", "bernoulli_.Tensor", "fill_.Tensor",
        "__ilshift__.*", "__irshift__.*"}},
      {drawn<is_probability>, {"bernoulli_.float"}},
      {drawn<inside_probability, true>, {"geometric_"}},
      {drawn_for_each,
       {"poisson", "binomial", "_standard_gamma", "_standard_gamma_grad", "_sample_dirichlet", "_dirichlet_grad"}},
      {drawn<first_positive>, {"exponential_"}},
      {drawn<second_positive>, {"cauchy_", "log_normal_"}},
      {drawn<second_not_negative>, {"normal_"}},
      {drawn<ascending>, {"uniform_"}},
      {approximated<same>, {"gelu", "gelu.out"}},
      {approximated<of_two>, {"gelu_backward", "gelu_backward.grad_input"}},
      {filled, {"zero_", "fill_.Scalar", "random_.*", "relu_", "hardtanh_", "hardswish_"}},
      {filled_floating, {"logit_", "rrelu_with_noise_"}},
      {unscaled, {"_amp_foreach_non_finite_check_and_unscale_"}},
      {updated_scale, {"_amp_update_scale_"}},
      {rsub, {"rsub.Tensor"}},
      {frexp, {"frexp.Tensor_out"}},
      {glu_backward, {"glu_backward"}},
      {dropout_backward, {"native_dropout_backward"}},
      {normal, {"normal.Tensor_float", "normal.float_Tensor", "normal.Tensor_Tensor"}},
      {noisy, {"rrelu_with_noise"}},
      {gradient_of_second, {"huber_loss_backward.out", "smooth_l1_loss_backward.grad_input"}},
      {outer_product_added, {"addr"}},
      {nothing, {"_fused_adam_.*", "_fused_adamw_.*", "_fused_sgd_.*", "_fused_adagrad_.*"}},
  };
}

}  // namespace remora
