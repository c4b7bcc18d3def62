// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/shapes/rule.h"

namespace remora {

c10::DimVector Call::ints(size_t i) const {
  c10::DimVector result;
  if (values_[i].isInt()) return {values_[i].toInt()};
  if (values_[i].isNone()) return {};
  for (const auto& element : values_[i].toListRef()) result.push_back(element.toInt());
  return result;
}

std::vector<bool> Call::flags(size_t i) const {
  std::vector<bool> result;
  for (const auto& element : values_[i].toListRef()) result.push_back(element.toBool());
  return result;
}

std::optional<c10::ScalarType> Call::dtype(size_t i) const {
  return values_[i].isNone() ? std::nullopt : std::make_optional(values_[i].toScalarType());
}

size_t Call::named(const char* name) const {
  for (size_t i = 0; i < schema_.arguments().size(); i++) {
    if (schema_.arguments()[i].name() == name) return i;
  }
  unsure(std::string("no argument ") + name);
}

bool Call::has(const char* name) const {
  for (const auto& argument : schema_.arguments()) {
    if (argument.name() == name) return true;
  }
  return false;
}

at::Tensor elementwise(c10::ArrayRef<at::Tensor> inputs, c10::ScalarType dtype) {
  at::TensorIteratorConfig config;
  config.set_check_mem_overlap(false)
      .check_all_same_dtype(false)
      .declare_static_dtype_and_device(dtype, c10::Device(kShapes, 0))
      .add_owned_output(at::Tensor());
  for (const auto& input : inputs) config.add_owned_const_input(input);
  return config.build().output();
}

Results nothing(const Call&) { return {}; }

int64_t in_dimension(c10::IntArrayRef values, size_t i) { return values.size() == 1 ? values[0] : values[i]; }

at::Tensor contiguous(const at::Tensor& like) { return shape_tensor(like.sizes(), like.scalar_type()); }

at::Tensor in_format_of(const at::Tensor& like) {
  return shape_tensor(like.sizes(), like.scalar_type(), like.suggest_memory_format());
}

Results like_second(const Call& call) { return {contiguous(call.tensor(1))}; }

c10::DimVector reduced(const at::Tensor& t, c10::IntArrayRef dims, bool keepdim) {
  auto rank = t.dim();
  std::vector<bool> mask(std::max<int64_t>(rank, 1), dims.empty());
  for (auto dim : dims) {
    if (dim < -std::max<int64_t>(rank, 1) || dim >= std::max<int64_t>(rank, 1)) unsure("a dimension out of range");
    auto which = dim < 0 ? dim + std::max<int64_t>(rank, 1) : dim;
    if (mask[which]) unsure("a dimension twice");
    mask[which] = true;
  }
  c10::DimVector sizes;
  for (int64_t i = 0; i < rank; i++) {
    if (!mask[i]) sizes.push_back(t.size(i));
    if (mask[i] && keepdim) sizes.push_back(1);
  }
  return sizes;
}

}  // namespace remora
