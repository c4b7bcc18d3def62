// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Metadata of a strided tensor. The program keeps and predicts it; the node checks it.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <limits>

#include "common/wire.h"

namespace remora {

// Kinds of tensors that a device does not hold, each with the remedy.
constexpr const char* kNotSparse =
    "a remora device holds strided tensors, not sparse ones or MKL-DNN's; call to_dense() on the tensor before moving "
    "it, make embeddings with sparse=False, or keep sparse work on the CPU";
constexpr const char* kNotQuantized =
    "a remora device holds no quantized tensors; call dequantize() on the tensor before moving it, or keep quantized "
    "work on the CPU";

using Dimensions = c10::SmallVector<int64_t, 5>;

inline bool strides_are_contiguous(c10::IntArrayRef sizes, c10::IntArrayRef strides) {
  uint64_t expected = 1;  // may wrap around if a tensor is empty
  for (size_t i = sizes.size(); i-- > 0;) {
    if (static_cast<uint64_t>(strides[i]) != expected) {
      return false;
    }
    expected *= static_cast<uint64_t>(std::max<int64_t>(sizes[i], 1));
  }
  return true;
}

struct TensorMeta {
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  bool conj = false;
  bool neg = false;
  Dimensions sizes;
  Dimensions strides;
  int64_t offset = 0;

  static TensorMeta of(const at::Tensor& t) {
    TensorMeta m;
    m.dtype = t.scalar_type();
    m.conj = t.is_conj();
    m.neg = t.is_neg();
    m.sizes.assign(t.sizes().begin(), t.sizes().end());
    m.strides.assign(t.strides().begin(), t.strides().end());
    m.offset = t.storage_offset();
    return m;
  }
  size_t bytes() const { return at::detail::computeStorageNbytes(sizes, strides, c10::elementSize(dtype), offset); }
  // The end of the tensor in bytes, exclusive, or the largest number if the end is beyond that. No product of hostile
  // sizes wraps around. Sizes, strides and offset are not negative.
  uint64_t end() const {
    constexpr auto kMost = std::numeric_limits<uint64_t>::max();
    auto limited = [](unsigned __int128 value) {
      return static_cast<uint64_t>(std::min<unsigned __int128>(value, kMost));
    };
    auto elements = static_cast<uint64_t>(offset) + 1;
    for (size_t i = 0; i < sizes.size(); i++) {
      if (sizes[i] == 0) return 0;
      elements = limited(elements + static_cast<unsigned __int128>(sizes[i] - 1) * static_cast<uint64_t>(strides[i]));
    }
    return limited(static_cast<unsigned __int128>(elements) * c10::elementSize(dtype));
  }
  // Whether every byte from the first element to the last belongs to exactly one element.
  bool is_dense() const {
    c10::SmallVector<size_t, 8> order(sizes.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides[a] < strides[b]; });
    uint64_t expected = 1;
    for (auto i : order) {
      if (sizes[i] == 1) continue;
      if (static_cast<uint64_t>(strides[i]) != expected) return false;
      expected *= static_cast<uint64_t>(sizes[i]);
    }
    return true;
  }
  bool same_layout(const TensorMeta& o) const { return sizes == o.sizes && strides == o.strides && offset == o.offset; }
  bool operator==(const TensorMeta& o) const {
    return dtype == o.dtype && conj == o.conj && neg == o.neg && same_layout(o);
  }

  void write(Writer& w) const {
    w.code(dtype);
    w.u8((conj ? 1 : 0) | (neg ? 2 : 0));
    w.varint(sizes.size());
    for (auto s : sizes) w.varint(s);
    for (auto s : strides) w.zigzag(s);
    w.varint(offset);
  }
  static TensorMeta read(Reader& r) {
    TensorMeta m;
    m.dtype = r.dtype();
    auto bits = r.u8();
    m.conj = bits & 1;
    m.neg = bits & 2;
    m.read_layout(r);
    return m;
  }
  void read_layout(Reader& r) {
    auto dims = r.count("a tensor's dimensions");
    for (uint64_t i = 0; i < dims; i++) sizes.push_back(static_cast<int64_t>(r.bounded(INT64_MAX, "a size")));
    for (uint64_t i = 0; i < dims; i++) strides.push_back(r.zigzag());
    offset = static_cast<int64_t>(r.bounded(kMaxStorageBytes, "a storage offset"));
  }
};

// "float32[128, 64]", with the strides if the tensor is not contiguous.
inline std::string describe(c10::ScalarType dtype, c10::IntArrayRef sizes, c10::IntArrayRef strides) {
  auto list = [](c10::IntArrayRef values) {
    std::string text = "[";
    for (size_t i = 0; i < values.size(); i++) {
      text += (i ? ", " : "") + std::to_string(values[i]);
    }
    return text + "]";
  };
  auto [name, legacy] = c10::getDtypeNames(dtype);
  std::string text(name);  // a string_view in libtorch 2.13 and newer
  text += list(sizes);
  if (!strides_are_contiguous(sizes, strides)) {
    text += " strides " + list(strides);
  }
  return text;
}
inline std::string describe(const TensorMeta& m) { return describe(m.dtype, m.sizes, m.strides); }

}  // namespace remora
