// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Memory that the node shares with the worker process of a Python function: a sealed memory file on the CPU, an allocation
// that the CUDA driver lends on CUDA.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

#include "common/wire.h"

namespace remora {

// Moves a storage's bytes into shared memory, once; tensors over it see no difference. Returns the path under which
// another process of the same user opens it.
std::string share(c10::StorageImpl* storage);
// Memory that a worker shares, by such a path. Throws when it is anything else.
c10::DataPtr open_shared(std::string_view path, size_t bytes);

// The handle of a storage on CUDA, and a copy of the memory behind such a handle: the worker's allocator may want that
// back at any time.
void write_cuda(Writer& w, const c10::StorageImpl* storage);
at::Tensor read_cuda(Reader& r, c10::Device device, size_t bytes);

// Waits until the device has done what it was given.
void synchronize(c10::Device device);

}  // namespace remora
