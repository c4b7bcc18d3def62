// SPDX-License-Identifier: AGPL-3.0-or-later
//
// A closed batch: what goes to the node in one piece, and what the binding is told of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "common/wire.h"

namespace remora {

class Machine;

struct Batch {
  Machine* machine = nullptr;
  uint64_t sequence = 0;
  Writer bytes;
  size_t weight = 0;          // about the bytes that it would take without references to earlier batches
  std::vector<int64_t> born;  // triples id, bytes, device
  std::vector<int64_t> freed;
  int64_t operations = 0;  // recorded since the previous batch
  int64_t request = 0;
  at::Tensor destination;  // keeps the destination of a value alive until the batch is released
};

}  // namespace remora
