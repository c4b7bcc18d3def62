// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Memory that the node shares with the worker process of a Python function: a sealed memory file on the CPU, a CUDA
// driver allocation on CUDA.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

#include "common/wire.h"

namespace remora {

// Moves a storage's bytes into shared memory, once; tensors over the storage do not notice. Returns a path with which
// another process of the same user opens the memory.
std::string share(c10::StorageImpl* storage);
// Opens memory that a worker shares under such a path. Throws if the path names anything else.
c10::DataPtr open_shared(std::string_view path, size_t bytes);

// The handle of a storage on CUDA, and a copy of the memory behind such a handle. It is a copy because the worker's
// allocator may reuse the memory at any time.
void write_cuda(Writer& w, const c10::StorageImpl* storage);
at::Tensor read_cuda(Reader& r, c10::Device device, size_t bytes);

}  // namespace remora
