// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The frames that a session sends to a gateway: ClientFrame of gateway.proto, with gRPC's prefix.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "client/machine/batch.h"
#include "client/session/protobuf.h"

namespace remora {

// Field numbers of ClientFrame.
enum ClientField : uint32_t {
  kReceived = 1,
  kBatches = 3,
  kGoodbye = 4,
  kPing = 5,
  kOpenDirect = 6,
  kCloseDirect = 7,
  kWaits = 8
};

// A frame: its head, then the bytes of its batch.
struct Message {
  Writer head;
  std::shared_ptr<Batch> batch;  // may be null
  bool last = false;             // no message follows

  size_t size() const { return head.size() + (batch ? batch->bytes.size() : 0); }
  // The encoded frame, without gRPC's prefix.
  std::string frame() const;
};

// Begins a frame that acknowledges what was received and has one more field of `size` bytes, which the caller writes.
void begin_frame(Writer& out, uint64_t received, ClientField field, size_t size);
// A frame with this number as field 1 of its field.
void write_numbered(Writer& out, uint64_t received, ClientField field, uint64_t number);
// A frame with a batch, but for the batch's bytes, which follow.
void write_batch(Writer& out, uint64_t received, const Batch& batch);
// A field of numbers; none if there are no numbers.
void write_packed(Writer& out, uint32_t field, const std::vector<int64_t>& numbers);

}  // namespace remora
