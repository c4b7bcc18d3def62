// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Values that the program reads from a machine, in pieces.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace remora {

class Machine;

// Requests with consecutive numbers, one for each piece of a value.
struct Reads {
  int64_t first;
  int64_t count;
};
// Records the download of `source` into `destination`, which is contiguous and has the same dtype and sizes.
Reads record_read(const at::Tensor& source, const at::Tensor& destination);
// Waits for all pieces. `what` is what the program calls the read, see Waits.
void await_read(Machine& machine, const Reads& reads, std::string_view what);
void set_read_piece(int64_t bytes);

}  // namespace remora
