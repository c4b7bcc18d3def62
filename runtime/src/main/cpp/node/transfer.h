// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Tensors that go from one machine straight to another. The program asks the source's node to hold the bytes under a
// ticket, and the target's node to fetch them from there; it never sees them. The node's host serves the tickets that
// this file holds, and fetches those of others.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

#include "api/remora.h"
#include "common/wire.h"

namespace remora {

// ---------------------------------------------------------------- the program's side

// Copies `source` to `target`, two contiguous 1-D tensors of one dtype on two machines, from node to node. `temporary`:
// nobody writes to the source any more. Answers how many elements were copied: the caller copies the rest by way of
// this process, which is right (if slower) whatever has kept them from going straight.
int64_t copy_straight(const at::Tensor& source, const at::Tensor& target, bool temporary);

void set_notice_callback(remora_notice_callback notice);

// ---------------------------------------------------------------- the node's side

struct Transferred {
  TransferResult result = TransferResult::kDone;
  std::string reason;  // for the program's log
};

// Holds a contiguous tensor's bytes under the ticket, until they are taken, dropped or out of date. `owner` is who may
// drop them.
Transferred hold_for_transfer(const std::string& ticket, const at::Tensor& source, bool temporary, const void* owner);
void drop_transfer(std::string_view ticket, const void* owner);
void drop_transfers(const void* owner);
// Fills a contiguous tensor with what the node at `address` holds under the ticket.
Transferred fetch_transfer(const std::string& ticket, const std::string& address, const at::Tensor& target);

// For the host. What take_transfer() answers is the host's until it deletes it; nullptr when there is no such ticket.
struct HeldTransfer {
  at::Tensor bytes;      // contiguous, on the CPU
  int64_t reserved = 0;  // how many bytes it counts for
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
