// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/session/client_frames.h"

namespace remora {

namespace {

enum BatchField : uint32_t { kSequence = 1, kData = 2, kBorn = 3, kFreed = 4, kOperations = 5 };

size_t varint_size(uint64_t value) {
  size_t size = 1;
  while (value >>= 7) size++;
  return size;
}

}  // namespace

std::string Message::frame() const {
  std::string bytes(reinterpret_cast<const char*>(head.data()) + kPrefixBytes, head.size() - kPrefixBytes);
  if (batch) {
    bytes.append(reinterpret_cast<const char*>(batch->bytes.data()), batch->bytes.size());
  }
  return bytes;
}

void write_packed(Writer& out, uint32_t field, const std::vector<int64_t>& numbers) {
  if (!numbers.empty()) {
    Writer packed;
    for (auto number : numbers) packed.varint(static_cast<uint64_t>(number));
    begin_bytes(out, field, packed.size());
    out.raw(packed.data(), packed.size());
  }
}

void begin_frame(Writer& out, uint64_t received, ClientField field, size_t size) {
  size_t first = received == 0 ? 0 : 1 + varint_size(received);
  write_grpc_prefix(out, first + 1 + varint_size(size) + size);
  write_number(out, kReceived, received);
  begin_bytes(out, field, size);
}

void write_numbered(Writer& out, uint64_t received, ClientField field, uint64_t number) {
  begin_frame(out, received, field, 1 + varint_size(number));
  write_number(out, 1, number);
}

void write_batch(Writer& out, uint64_t received, const Batch& batch) {
  Writer head;
  write_number(head, kSequence, batch.sequence);
  write_packed(head, kBorn, batch.born);
  write_packed(head, kFreed, batch.freed);
  write_number(head, kOperations, static_cast<uint64_t>(batch.operations));
  begin_bytes(head, kData, batch.bytes.size());  // last, so that the bytes need not be copied
  auto size = head.size() + batch.bytes.size();
  begin_frame(out, received, kBatches, 1 + varint_size(size) + size);
  begin_bytes(out, 1, size);
  out.raw(head.data(), head.size());
}

}  // namespace remora
