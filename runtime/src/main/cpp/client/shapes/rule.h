// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A rule: the kernel of one operator for shape tensors. It is given the call's arguments and returns the results. It says
// unsure() wherever the arguments are not plainly valid: the node then answers, with PyTorch's own error if there is one.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <vector>

#include "client/shapes/shapes.h"

namespace remora {

class Call {
 public:
  Call(const c10::FunctionSchema& schema, c10::ArrayRef<c10::IValue> values) : schema_(schema), values_(values) {}

  size_t size() const { return values_.size(); }
  const c10::IValue& value(size_t i) const { return values_[i]; }
  bool given(size_t i) const {
    return !values_[i].isNone() && !(values_[i].isTensor() && !values_[i].toTensor().defined());
  }
  at::Tensor tensor(size_t i) const { return given(i) ? values_[i].toTensor() : at::Tensor(); }
  c10::DimVector ints(size_t i) const;
  int64_t integer(size_t i) const { return values_[i].toInt(); }
  double number(size_t i) const { return values_[i].toScalar().toDouble(); }
  bool flag(size_t i) const { return values_[i].toBool(); }
  std::vector<bool> flags(size_t i) const;
  std::optional<c10::ScalarType> dtype(size_t i) const;
  const std::string& name(size_t i) const { return schema_.arguments()[i].name(); }
  // The first argument of this name.
  size_t named(const char* name) const;
  bool has(const char* name) const;

 private:
  const c10::FunctionSchema& schema_;
  c10::ArrayRef<c10::IValue> values_;
};

using Results = std::vector<c10::IValue>;
using Rule = Results (*)(const Call& call);

// One line of a table of rules: the operators, "name", "name.overload", or "name.*" for all overloads but those with
// outputs (out=). The rule for an overload with outputs returns what they should be; they take over its metadata.
struct RuleFor {
  Rule rule;
  std::vector<const char*> operators;
};

// What rules are made of.
// The result of a TensorIterator over the inputs: broadcast sizes, and the strides that it chooses.
at::Tensor elementwise(c10::ArrayRef<at::Tensor> inputs, c10::ScalarType dtype);
at::Tensor contiguous(const at::Tensor& like);
at::Tensor in_format_of(const at::Tensor& like);  // in its suggested memory format
Results nothing(const Call& call);                // of operators that return nothing
Results like_second(const Call& call);            // contiguous: often the gradient of the second argument
// What `rule` says, contiguous: for outputs (out=) that libtorch resizes before it copies a result into them.
template <Rule rule>
Results resized(const Call& call) {
  auto results = rule(call);
  for (auto& result : results) result = contiguous(result.toTensor());
  return results;
}
// A parameter that is given for each dimension, or once for all.
int64_t in_dimension(c10::IntArrayRef values, size_t i);
// The sizes that a reduction over `dims` leaves, all of them if there are none.
c10::DimVector reduced(const at::Tensor& t, c10::IntArrayRef dims, bool keepdim);

using Rules = std::vector<RuleFor>;
// The families, each in a file of its name.
Rules elementwise_rules();
Rules reduction_rules();
Rules normalization_rules();
Rules convolution_rules();
Rules pooling_rules();
Rules indexing_rules();
Rules attention_rules();
Rules linear_algebra_rules();
Rules factorization_rules();
Rules fft_rules();
Rules loss_rules();
Rules asked_rules();

}  // namespace remora
