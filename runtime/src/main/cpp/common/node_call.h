// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Calls in a batch that are not operators. A worker process on the node runs Python functions (@remora.remote). The
// node's own process, in which the executor runs, answers calls such as loading and saving models.
//
// The messages between the core and the callee. Integers are varints; texts and bytes have a length prefix.
//   request  of a worker: version, payload, devices (count, names), device number, state of its default generator,
//            storages (count, Memory, bytes, device number, where), tensors (count, storage number, tensor)
//            of the node: version, payload, device's name, device number, the device's free bytes (0 = unknown)
//   answer   version, payload, generator state, new storages (as above), tensors (count, Source, number, tensor)
//   tensor   name of its dtype, 1 = conjugated | 2 = negated, dimensions, sizes, strides (zigzag), offset
// The program receives from the answer: version, payload, new storages (count, bytes, device number), tensors as above.
#pragma once

#include <string>
#include <string_view>

#include "common/tensor_meta.h"
#include "common/wire.h"

namespace remora {

enum class Callee : uint8_t { kWorker, kNode };

constexpr uint8_t kFunctionVersion = 2;

enum class Source : uint8_t {
  kArgument = 0,  // the storage of argument n
  kNew = 1,       // new storage n
};

inline void write_bytes(Writer& w, std::string_view bytes) {
  w.varint(bytes.size());
  w.raw(bytes.data(), bytes.size());
}

inline std::string_view read_bytes(Reader& r, const char* what) {
  auto n = r.count(what);
  return {reinterpret_cast<const char*>(r.raw(n)), n};
}

inline void write_tensor(Writer& w, const TensorMeta& meta) {
  w.string(c10::getDtypeNames(meta.dtype).first);
  w.u8((meta.conj ? 1 : 0) | (meta.neg ? 2 : 0));
  w.varint(meta.sizes.size());
  for (auto size : meta.sizes) w.varint(size);
  for (auto stride : meta.strides) w.zigzag(stride);
  w.varint(meta.offset);
}

inline c10::ScalarType dtype_of(Reader& r, std::string_view name) {
  for (int8_t i = 0; i < static_cast<int8_t>(c10::ScalarType::NumOptions); i++) {
    auto dtype = static_cast<c10::ScalarType>(i);
    if (dtype != c10::ScalarType::Undefined && c10::getDtypeNames(dtype).first == name) {
      return dtype;
    }
  }
  r.fail("unknown dtype " + std::string(name));
}

// Fails if the tensor ends outside a storage of `bytes` bytes.
inline TensorMeta read_tensor(Reader& r, uint64_t bytes) {
  TensorMeta meta;
  meta.dtype = dtype_of(r, r.string());
  auto bits = r.u8();
  meta.conj = bits & 1;
  meta.neg = bits & 2;
  meta.read_layout(r);
  for (auto stride : meta.strides) {
    if (stride < 0) r.fail("a stride is negative");
  }
  if (meta.end() > bytes) r.fail("a tensor ends outside its storage of " + std::to_string(bytes) + " bytes");
  return meta;
}

}  // namespace remora
