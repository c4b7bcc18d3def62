// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The node's side of tensors that go directly from one machine to another (see client/transfer.h): the tickets that
// this node holds for other nodes, and the fetching of tickets that other nodes hold. The node's host serves the
// tickets.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

#include "common/callbacks.h"
#include "common/wire.h"

namespace remora {

struct Transferred {
  TransferResult result = TransferResult::kDone;
  std::string reason;  // for the program's log
};

// Holds a contiguous tensor's bytes under the ticket until they are taken, dropped or expired. Only `owner` may drop
// them.
Transferred hold_for_transfer(const std::string& ticket, const at::Tensor& source, bool temporary, const void* owner);
void drop_transfer(std::string_view ticket, const void* owner);
void drop_transfers(const void* owner);
// Fills a contiguous tensor with the bytes that the node at `address` holds under the ticket.
Transferred fetch_transfer(const std::string& ticket, const std::string& address, const at::Tensor& target);

// For the host, which must delete the result of take_transfer(). The result is nullptr if there is no such ticket.
struct HeldTransfer {
  at::Tensor bytes;      // contiguous, on the CPU
  int64_t reserved = 0;  // bytes that it takes from the limit
  HeldTransfer() = default;
  HeldTransfer(const HeldTransfer&) = delete;
  HeldTransfer& operator=(const HeldTransfer&) = delete;
  ~HeldTransfer();
};
HeldTransfer* take_transfer(std::string_view ticket);
int expire_transfers();
void configure_transfers(int64_t most_tickets, int64_t most_bytes, int64_t lifetime_millis,
                         remora_fetch_callback fetch);

}  // namespace remora
