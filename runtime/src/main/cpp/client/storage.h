// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Storages of remote tensors: what the program keeps of them, and where it finds that.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "common/tensor_meta.h"

namespace remora {

class Machine;

// What a storage's DataPtr refers to. Its data pointer is where the storage would be if it were in this process, an
// address that no memory has: other live storages are elsewhere, and places in this one are as far apart as its bytes.
struct StorageContext {
  Machine* machine;
  int64_t id;
  int32_t device;  // number on the machine
  uint64_t bytes;
  uint64_t address = 0;
  uint64_t room = 0;   // from the address on, kept free of other storages
  uint64_t born = 0;   // sequence of the batch that first used it; 0 = the node has not heard of it
  uint32_t birth = 0;  // its place in that batch's list of births
  int64_t call = 0;    // the call that named it last
};

StorageContext* context_of(const at::Tensor& t);  // nullptr for tensors without a remote storage
// Throws what PyTorch throws where memory is out: no node has a storage of so many bytes.
void check_storage_bytes(size_t bytes);
// The storage that a remote tensor's memory is, or is part of: a slice of a storage, or what came through DLPack. Throws
// where no machine has the memory, or the tensor does not lie within it.
StorageContext& storage_of(const at::Tensor& t);
// Bytes from the storage's first to the first of the tensor's own storage.
int64_t byte_shift(const at::Tensor& t, const StorageContext& storage);
c10::Device device_of_address(const void* address);  // throws where no storage is there

// A new storage on a device slot, and a tensor over it. No memory but its metadata's.
at::Tensor new_tensor(Machine& machine, int slot, const TensorMeta& meta, size_t storage_bytes);
void resize_storage(c10::StorageImpl* storage, size_t bytes);
void note_resized(c10::StorageImpl* storage, size_t bytes);  // the same where the node does it by itself
StorageContext& whole_storage(c10::StorageImpl* storage);    // throws where it is a part, which has no size of its own

// Memory of a new storage on a device slot.
c10::DataPtr new_memory(Machine& machine, int slot, size_t bytes);

}  // namespace remora
