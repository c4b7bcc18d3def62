// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Storages of remote tensors: the program's data about each storage, and its lookup.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "client/machine/batch_writer.h"
#include "common/tensor_meta.h"

namespace remora {

class Machine;

struct StorageContext;
using AddressRanges = std::map<uint64_t, StorageContext*>;  // live storages by their addresses

// The context of a storage's DataPtr. Its data pointer is an address at which no memory exists. Each live storage has a
// range of such addresses of its own, and distances within the range are distances in the storage.
struct StorageContext {
  Machine* machine;
  int64_t id;
  int32_t device;  // number on the machine
  uint64_t bytes;
  uint64_t address = 0;
  AddressRanges::iterator place{};  // of the address; a search by address costs more among many storages
  uint64_t room = 0;                // bytes from the address on that no other storage uses
  uint64_t born = 0;                // sequence of the batch that first used it; 0: the node does not know it yet
  uint32_t birth = 0;               // its index in that batch's list of births
  int64_t call = 0;                 // the last call that named it
};

StorageContext* context_of(const at::Tensor& t);  // nullptr for tensors without a remote storage
// Throws PyTorch's out-of-memory error if no node can have a storage of this size.
void check_storage_bytes(size_t bytes);
// The storage that a remote tensor's memory is or belongs to. It belongs to another storage if it is a slice, or came
// through DLPack. Throws if no machine has the memory, or if the tensor does not lie within the storage.
StorageContext& storage_of(const at::Tensor& t);
// The distance in bytes from the start of the remote storage to the start of the tensor's own storage.
int64_t byte_shift(const at::Tensor& t, const StorageContext& storage);
std::vector<LiveStorage> known_storages(const Machine& machine);  // to its node, by number; with the machine's lock
c10::Device device_of_address(const void* address);               // throws if no storage is there

// A new storage on a device slot, and a tensor over it. The program allocates only metadata.
at::Tensor new_tensor(Machine& machine, int slot, const TensorMeta& meta, size_t storage_bytes);
void resize_storage(c10::StorageImpl* storage, size_t bytes);
void note_resized(c10::StorageImpl* storage, size_t bytes);  // like resizing, if the node resizes the storage by itself
bool is_part(const c10::StorageImpl& storage);               // if it is part of another storage, or foreign memory
StorageContext& whole_storage(c10::StorageImpl* storage);    // throws if it is part of another storage

// The DataPtr of a new storage on a device slot.
c10::DataPtr new_memory(Machine& machine, int slot, size_t bytes);

}  // namespace remora
