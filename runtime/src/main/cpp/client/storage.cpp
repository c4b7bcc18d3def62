// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/storage.h"

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/ScalarTypeToTypeMeta.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "client/machine/machine.h"
#include "client/machine/slots.h"

namespace remora {

namespace {

// Assigns addresses to live storages. None of them is an address of this process's memory: they begin above every
// process's address space.
class Addresses {
 public:
  void take(StorageContext* storage) {
    // The address just past the last byte belongs to the storage too.
    auto room = (storage->bytes + kAlignment) / kAlignment * kAlignment;
    std::lock_guard<std::mutex> guard(mutex_);
    bool again = false;
    auto ahead = ranges_.empty() || next_ > ranges_.rbegin()->first ? ranges_.end() : ranges_.lower_bound(next_);
    while ((ahead == ranges_.end() ? kEnd : ahead->first) - next_ < room) {
      if (ahead != ranges_.end()) {
        next_ = ahead->first + ahead->second->room;
        ++ahead;
      } else {
        TORCH_CHECK(!std::exchange(again, true), "no address range is left for a storage of ", storage->bytes,
                    " bytes");
        next_ = kFirst;
        ahead = ranges_.begin();
      }
    }
    storage->address = next_;
    storage->room = room;
    storage->place = ranges_.emplace_hint(ahead, next_, storage);
    next_ += room;
  }
  void give_back(StorageContext* storage) {
    std::lock_guard<std::mutex> guard(mutex_);
    ranges_.erase(storage->place);
  }
  std::vector<LiveStorage> known(const Machine& machine) {
    std::vector<LiveStorage> all;
    std::lock_guard<std::mutex> guard(mutex_);
    for (const auto& [address, storage] : ranges_) {
      if (storage->machine == &machine && storage->born != 0) {
        all.push_back({storage->id, storage->device, storage->bytes});
      }
    }
    return all;
  }
  StorageContext* find(const void* pointer) {
    auto address = reinterpret_cast<uint64_t>(pointer);
    std::lock_guard<std::mutex> guard(mutex_);
    auto behind = ranges_.upper_bound(address);
    if (behind == ranges_.begin()) {
      return nullptr;
    }
    auto* storage = std::prev(behind)->second;
    return address - storage->address <= storage->bytes ? storage : nullptr;
  }

 private:
  static constexpr uint64_t kFirst = uint64_t{1} << 48;
  static constexpr uint64_t kEnd = uint64_t{1} << 63;
  static constexpr uint64_t kAlignment = 512;
  std::mutex mutex_;
  AddressRanges ranges_;
  uint64_t next_ = kFirst;
};
Addresses& addresses() {
  static auto* all = new Addresses();  // tensors may outlive static destructors
  return *all;
}

void delete_context(void* context) {
  auto* storage = static_cast<StorageContext*>(context);
  addresses().give_back(storage);
  storage->machine->free_storage(storage);
}

}  // namespace

c10::DataPtr new_memory(Machine& machine, int slot, size_t bytes) {
  auto id = machine.next_storage();
  auto context = std::make_unique<StorageContext>(StorageContext{&machine, id, machine.device_of_slot(slot), bytes});
  addresses().take(context.get());
  machine.storages.fetch_add(1, std::memory_order_relaxed);
  machine.storage_bytes.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  auto* address = reinterpret_cast<void*>(context->address);
  return {address, context.release(), &delete_context, c10::Device(kRemora, static_cast<c10::DeviceIndex>(slot))};
}

StorageContext* context_of(const at::Tensor& t) {
  if (!t.defined() || t.device().type() != kRemora || !t.has_storage()) {
    return nullptr;
  }
  const auto& pointer = t.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()->data_ptr();
  return pointer.get_deleter() == &delete_context ? static_cast<StorageContext*>(pointer.get_context())
                                                  : addresses().find(pointer.get());
}

int64_t byte_shift(const at::Tensor& t, const StorageContext& storage) {
  const auto* data = t.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()->data();
  return static_cast<int64_t>(reinterpret_cast<uint64_t>(data) - storage.address);
}

StorageContext& storage_of(const at::Tensor& t) {
  auto* storage = context_of(t);
  if (storage == nullptr) {
    raise("StaleReferenceException", "a tensor on " + t.device().str() + " " +
                                         describe(t.scalar_type(), t.sizes(), t.strides()) +
                                         " uses memory that no machine has: it was made from a pointer, or from a part "
                                         "of a storage that was resized later; make it from a tensor of the device");
  }
  if (auto shift = byte_shift(t, *storage)) {
    auto itemsize = static_cast<int64_t>(t.element_size());
    TORCH_CHECK(shift % itemsize == 0, "the tensor's memory begins at byte ", shift, " of storage ", storage->id,
                ", which is not a multiple of the ", itemsize, " bytes of its elements; view it as bytes and clone it");
    auto end = at::detail::computeStorageNbytes(t.sizes(), t.strides(), itemsize,
                                                t.storage_offset() + shift / itemsize);
    TORCH_CHECK(end <= storage->bytes, "the tensor ends at byte ", end, " of storage ", storage->id, ", which has ",
                storage->bytes, " bytes");
  }
  return *storage;
}

std::vector<LiveStorage> known_storages(const Machine& machine) {
  auto all = addresses().known(machine);
  std::sort(all.begin(), all.end(), [](const LiveStorage& a, const LiveStorage& b) { return a.id < b.id; });
  return all;
}

c10::Device device_of_address(const void* address) {
  auto* storage = addresses().find(address);
  if (storage == nullptr) {
    raise("StaleReferenceException", "no machine has memory at this address");
  }
  return {kRemora, static_cast<c10::DeviceIndex>(storage->machine->first_slot + storage->device)};
}

void check_storage_bytes(size_t bytes) {
  TORCH_CHECK_WITH(OutOfMemoryError, bytes <= kMaxStorageBytes, "remora out of memory. Tried to allocate ", bytes,
                   " bytes; a storage on a machine is limited to ", kMaxStorageBytes, ".");
}

at::Tensor new_tensor(Machine& machine, int slot, const TensorMeta& meta, size_t storage_bytes) {
  check_storage_bytes(storage_bytes);
  c10::Storage storage(c10::Storage::use_byte_size_t(), static_cast<int64_t>(storage_bytes),
                       new_memory(machine, slot, storage_bytes), c10::GetAllocator(kRemora), true);
  auto t = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::scalarTypeToTypeMeta(meta.dtype));
  auto* impl = t.unsafeGetTensorImpl();
  bool as_made = meta.sizes.size() == 1 && meta.sizes[0] == 0 && meta.strides[0] == 1 && meta.offset == 0;
  if (!as_made) {
    impl->set_sizes_and_strides(meta.sizes, meta.strides, meta.offset);
  }
  if (meta.conj) {
    t._set_conj(true);
  }
  if (meta.neg) {
    t._set_neg(true);
  }
  return t;
}

bool is_part(const c10::StorageImpl& storage) {
  return !storage.resizable() || storage.data_ptr().get_deleter() != &delete_context;
}

StorageContext& whole_storage(c10::StorageImpl* storage) {
  TORCH_CHECK(!is_part(*storage), "Trying to resize storage that is not resizable");
  return *static_cast<StorageContext*>(storage->data_ptr().get_context());
}

void note_resized(c10::StorageImpl* storage, size_t bytes) {
  auto& context = whole_storage(storage);
  storage->set_nbytes(bytes);
  context.machine->storage_bytes.fetch_add(static_cast<int64_t>(bytes) - static_cast<int64_t>(context.bytes),
                                           std::memory_order_relaxed);
  if (bytes < context.room) {
    context.bytes = bytes;
    return;
  }
  addresses().give_back(&context);
  context.bytes = bytes;
  addresses().take(&context);
  auto device = storage->device();
  storage->_mutable_data_ptr_no_checks().release_context();
  storage->set_data_ptr_noswap({reinterpret_cast<void*>(context.address), &context, &delete_context, device});
}

void resize_storage(c10::StorageImpl* storage, size_t bytes) {
  if (bytes == storage->nbytes()) {
    return;
  }
  check_storage_bytes(bytes);
  auto& context = whole_storage(storage);
  auto& machine = *context.machine;
  Machine::Lock lock(machine);
  machine.begin_record();
  note_resized(storage, bytes);
  if (context.born != 0) {
    machine.open.code(Record::kResize);
    machine.open.write_storage(context);
    machine.open.varint(bytes);
    machine.end_record(false);
  }
}

}  // namespace remora
