// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The parts of protobuf's encoding and of gRPC's framing that the frames of gateway.proto need.
#pragma once

#include <utility>

#include "common/wire.h"

namespace remora {

enum class ProtoType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct ProtoBytes {
  const uint8_t* data = nullptr;
  size_t size = 0;
  std::string text() const { return {reinterpret_cast<const char*>(data), size}; }
};

// Reads an untrusted message field by field, never past its end.
class ProtoReader {
 public:
  explicit ProtoReader(ProtoBytes message) : in_(message.data, message.size) {}

  // Advances to the next field; returns false at the end.
  bool next() {
    if (in_.done()) {
      return false;
    }
    auto tag = in_.varint();
    field = tag >> 3;
    type_ = static_cast<ProtoType>(tag & 7);
    number = 0;
    bytes = {};
    switch (type_) {
      case ProtoType::kVarint: number = in_.varint(); break;
      case ProtoType::kFixed64: in_.raw(8); break;
      case ProtoType::kFixed32: in_.raw(4); break;
      case ProtoType::kBytes:
        bytes.size = in_.count("a field's length");
        bytes.data = in_.raw(bytes.size);
        break;
      default: in_.fail("a field of wire type " + std::to_string(tag & 7));
    }
    return true;
  }
  // Whether the current field is `wanted`, as a number or as bytes. A field with another wire type counts as unknown.
  bool is_number(uint64_t wanted) const { return field == wanted && type_ == ProtoType::kVarint; }
  bool is_bytes(uint64_t wanted) const { return field == wanted && type_ == ProtoType::kBytes; }

  uint64_t field = 0;
  uint64_t number = 0;  // the value of a varint
  ProtoBytes bytes;     // the value of a string, bytes or a message

 private:
  Reader in_;
  ProtoType type_ = ProtoType::kVarint;
};

inline void write_tag(Writer& out, uint32_t field, ProtoType type) {
  out.varint(field << 3 | static_cast<uint32_t>(type));
}
inline void write_number(Writer& out, uint32_t field, uint64_t value) {
  if (value != 0) {  // proto3 omits zeros
    write_tag(out, field, ProtoType::kVarint);
    out.varint(value);
  }
}
// Writes the start of a field of `size` bytes; the caller appends the bytes.
inline void begin_bytes(Writer& out, uint32_t field, size_t size) {
  write_tag(out, field, ProtoType::kBytes);
  out.varint(size);
}

// The size of gRPC's message prefix: a compression flag and the length.
constexpr size_t kPrefixBytes = 5;
inline void write_grpc_prefix(Writer& out, size_t size) {
  out.u8(0);
  for (int shift = 24; shift >= 0; shift -= 8) out.u8(static_cast<uint8_t>(size >> shift));
}

}  // namespace remora
