// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Tensors that go directly from one machine to another. The program asks the source's node to hold the bytes under a
// ticket, and the target's node to fetch them; the program never sees the bytes. node/held_transfers.h is the other
// side.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/callbacks.h"

namespace remora {

// Copies `source` to `target` from node to node. Both are contiguous 1-D tensors of the same dtype, on two machines.
// `temporary`: nobody writes to the source any more. Returns the number of elements copied. The caller copies the rest
// through this process, which is slower but always works.
int64_t copy_direct(const at::Tensor& source, const at::Tensor& target, bool temporary);

void set_notice_callback(remora_notice_callback notice);

}  // namespace remora
