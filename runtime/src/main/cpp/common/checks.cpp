// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Mistakes that a call's metadata shows, and that the CPU's kernels refuse but libtorch's Meta kernels accept. These
// checks refuse them at the call, with libtorch's own messages.
#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/native/DistributionTemplates.h>
#include <ATen/native/FractionalMaxPooling.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <unordered_map>

#include "common/operators.h"

namespace remora {

namespace {

using Arguments = c10::ArrayRef<c10::IValue>;

void each_element_once(Arguments arguments) { at::assert_no_internal_overlap(arguments[0].toTensor()); }

void copy(Arguments arguments) {
  const auto& self = arguments[0].toTensor();
  if (self.numel() == 0) {
    return;
  }
  at::assert_no_internal_overlap(self);
  at::assert_no_partial_overlap(self, arguments[1].toTensor());
}

void list(Arguments arguments) {
  for (const auto& element : arguments[0].toListRef()) at::assert_no_internal_overlap(element.toTensor());
}

template <int64_t dims>
void fractional_max_pool(Arguments arguments) {
  at::native::fractional_max_pool_check_shape<dims>(arguments[0].toTensor(), arguments[3].toTensor());
}

void put(Arguments arguments) {
  const auto& self = arguments[0].toTensor();
  const auto& index = arguments[1].toTensor();
  const auto& source = arguments[2].toTensor();
  at::assert_no_internal_overlap(self);
  at::assert_no_overlap(self, index);
  at::assert_no_overlap(self, source);
  TORCH_CHECK(index.scalar_type() == at::kLong, "put_(): Expected a long tensor for index, but got ",
              index.scalar_type());
  TORCH_CHECK(self.scalar_type() == source.scalar_type(),
              "put_(): self and source expected to have the same dtype, but got self.dtype = ", self.scalar_type(),
              " and source.dtype = ", source.scalar_type());
  if (!arguments[3].toBool()) at::globalContext().alertNotDeterministic("put_");
  TORCH_CHECK_INDEX(source.numel() == index.numel(),
                    "put_(): Expected source and index to have the same number of elements, but got source.numel() = ",
                    source.numel(), ", index.numel() = ", index.numel());
}

// libtorch sets the elements that a mask selects to one value by masked_fill_, which accepts no other masks.
bool is_filled(const at::Tensor& values, size_t masks, size_t others, bool accumulate) {
  return masks == 1 && others == 0 && values.numel() == 1 && !accumulate;
}

// Checks an assignment to elements that index tensors select: the shape of the values must fit the selection. Only the
// node can count the elements that a mask selects.
void index_put(Arguments arguments) {
  const auto& self = arguments[0].toTensor();
  const auto& values = arguments[2].toTensor();
  auto indices = arguments[1].toListRef();
  auto dims = static_cast<size_t>(self.dim());
  TORCH_CHECK_INDEX(indices.size() <= dims, "too many indices for tensor of dimension ", dims, " (got ", indices.size(),
                    ")");
  if (at::has_internal_overlap(self) == at::MemOverlap::Yes) {
    TORCH_WARN(
        "Use of index_put_ on expanded tensors is deprecated. Please clone() the tensor before performing this "
        "operation. This also applies to advanced indexing e.g. tensor[indices] = tensor");
  }
  std::vector<int64_t> named;
  std::vector<size_t> places;
  size_t place = 0;  // the dimension of self that the next index selects from
  std::ostringstream shapes;
  bool fit = true;
  size_t masks = 0;
  size_t byte_masks = 0;
  for (const auto& element : indices) {
    if (element.isNone() || !element.toTensor().defined()) {
      place++;
      continue;
    }
    const auto& index = element.toTensor();
    auto dtype = index.scalar_type();
    bool mask = dtype == at::kBool || dtype == at::kByte;
    TORCH_CHECK_INDEX(mask || dtype == at::kLong || dtype == at::kInt,
                      "tensors used as indices must be long, int, byte or bool tensors");
    if (mask) {
      for (size_t i = 0; i < static_cast<size_t>(index.dim()) && place + i < dims; i++) {
        TORCH_CHECK_INDEX(index.size(i) == self.size(place + i), "The shape of the mask ", index.sizes(), " at index ",
                          i, " does not match the shape of the indexed tensor ", self.sizes(), " at index ", place + i);
      }
      masks++;
      byte_masks += dtype == at::kByte;
      place += index.dim();
      continue;
    }
    shapes << (places.empty() ? "" : ", ") << index.sizes();
    fit = fit && at::are_expandable(named, index.sizes());
    if (fit) {
      named = at::infer_size(named, index.sizes());
    }
    places.push_back(place++);
  }
  bool filled = is_filled(values, masks, places.size(), arguments[3].toBool());
  TORCH_CHECK(!filled || byte_masks == 0,
              "masked_fill_ only supports boolean masks, but got mask with dtype unsigned char");
  for (; byte_masks > 0; byte_masks--) {
    TORCH_WARN("indexing with dtype torch.uint8 is now deprecated, please use a dtype torch.bool instead.");
  }
  if (!filled) {
    at::assert_no_overlap(self, values);
    for (const auto& element : indices) {
      if (element.isTensor() && element.toTensor().defined()) at::assert_no_overlap(self, element.toTensor());
    }
  }
  if (masks == 0) {
    TORCH_CHECK_INDEX(fit, "shape mismatch: indexing tensors could not be broadcast together with shapes ",
                      shapes.str());
    // The dimension of the selected elements takes the place of the indices if these are adjacent; otherwise it comes
    // first.
    bool together = places.empty() || places.back() - places.front() + 1 == places.size();
    std::vector<int64_t> result;
    for (size_t i = 0; i < dims; i++) {
      if (std::find(places.begin(), places.end(), i) == places.end()) {
        result.push_back(self.size(static_cast<int64_t>(i)));
      } else if (together && i == places.front()) {
        result.insert(result.end(), named.begin(), named.end());
      }
    }
    if (!together) {
      result.insert(result.begin(), named.begin(), named.end());
    }
    TORCH_CHECK(at::is_expandable_to(values.sizes(), result), "shape mismatch: value tensor of shape ", values.sizes(),
                " cannot be broadcast to indexing result of shape ", c10::IntArrayRef(result));
  }
  TORCH_CHECK(filled || self.scalar_type() == values.scalar_type(),
              "Index put requires the source and destination dtypes match, got ", self.scalar_type(),
              " for the destination and ", values.scalar_type(), " for the source.");
}

// libtorch's own checks, called with a kernel that draws no numbers.
template <class Generator>
struct DrawNothing {
  template <class... Any>
  void operator()(Any&&...) const {}
};
void random(Arguments arguments) { each_element_once(arguments); }
void draw_between(const at::Tensor& self, int64_t from, std::optional<int64_t> to) {
  auto target = self;
  at::native::templates::random_from_to_impl<DrawNothing, at::Generator>(target, from, to, std::nullopt);
}
void random_to(Arguments arguments) { draw_between(arguments[0].toTensor(), 0, arguments[1].toInt()); }
void random_from(Arguments arguments) {
  draw_between(arguments[0].toTensor(), arguments[1].toInt(), arguments[2].toOptional<int64_t>());
}

// The antialiasing kernels support fewer dtypes than the others.
void smooth(Arguments arguments) {
  const auto dtype = arguments[0].toTensor().scalar_type();
  TORCH_CHECK_NOT_IMPLEMENTED(c10::isFloatingType(dtype) || dtype == at::kByte,
                              "\"compute_index_ranges_weights\" not implemented for '", dtype, "'");
}

void bmm(Arguments arguments) {
  auto a = arguments[0].toTensor().scalar_type();
  auto b = arguments[1].toTensor().scalar_type();
  TORCH_CHECK(a == b, "expected scalar type ", a, " but found ", b);
}

void histc(Arguments arguments) {
  auto low = arguments[2].toScalar();
  auto high = arguments[3].toScalar();
  TORCH_CHECK(low.toDouble() <= high.toDouble(), "torch.histc: max must be larger than min");
}

// Refuses a number that the tensor's dtype cannot represent.
void fits(const at::Tensor& self, const c10::IValue& value) {
  auto number = value.toScalar();
  auto real = number.isComplex() ? -1 : number.toDouble();
  bool any_type_has_it = real >= 0 && real < 128;
  bool any_float_has_it = !number.isComplex() && !(std::isfinite(real) && std::abs(real) > 65504);
  if (any_type_has_it || (any_float_has_it && c10::isFloatingType(self.scalar_type())) || self.numel() == 0) {
    return;
  }
  at::scalar_tensor(number, at::TensorOptions().dtype(self.scalar_type()));
}
void fill(Arguments arguments) { fits(arguments[0].toTensor(), arguments[1]); }
void masked_fill(Arguments arguments) { fits(arguments[0].toTensor(), arguments[2]); }

}  // namespace

Check check_of(const std::string& full_name) {
  static const std::unordered_map<std::string, Check> checks = {
      {"aten::copy_", copy},
      {"aten::put_", put},
      {"aten::_index_put_impl_", index_put},
      {"aten::bernoulli_.Tensor", each_element_once},
      {"aten::bernoulli_.float", each_element_once},
      {"aten::random_", random},
      {"aten::random_.to", random_to},
      {"aten::random_.from", random_from},
      {"aten::fractional_max_pool2d", fractional_max_pool<2>},
      {"aten::fractional_max_pool2d.output", fractional_max_pool<2>},
      {"aten::fractional_max_pool3d", fractional_max_pool<3>},
      {"aten::fractional_max_pool3d.output", fractional_max_pool<3>},
      {"aten::_upsample_bilinear2d_aa", smooth},
      {"aten::_upsample_bilinear2d_aa.out", smooth},
      {"aten::_upsample_bicubic2d_aa", smooth},
      {"aten::_upsample_bicubic2d_aa.out", smooth},
      {"aten::bmm", bmm},
      {"aten::bmm.out", bmm},
      {"aten::histc", histc},
      {"aten::histc.out", histc},
      {"aten::fill_.Scalar", fill},
      {"aten::masked_fill_.Scalar", masked_fill},
  };
  auto it = checks.find(full_name);
  if (it != checks.end()) {
    return it->second;
  }
  bool in_place = full_name.rfind("aten::_foreach_", 0) == 0 && full_name.find("_.") != std::string::npos;
  bool sets = full_name.find("_foreach_zero_") != std::string::npos;  // sets the same value each time
  return (in_place && !sets) || full_name == "aten::_foreach_copy_" ? list : nullptr;
}

}  // namespace remora
