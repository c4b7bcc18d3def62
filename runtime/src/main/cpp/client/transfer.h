// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Tensors that go from one machine straight to another. The program asks the source's node to hold the bytes under a
// ticket, and the target's node to fetch them from there; it never sees them. node/held_transfers.h is the other side.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/callbacks.h"

namespace remora {

// Copies `source` to `target`, two contiguous 1-D tensors of one dtype on two machines, from node to node. `temporary`:
// nobody writes to the source any more. Returns how many elements were copied. The caller copies the rest through this
// process, which is always correct, only slower.
int64_t copy_direct(const at::Tensor& source, const at::Tensor& target, bool temporary);

void set_notice_callback(remora_notice_callback notice);

}  // namespace remora
