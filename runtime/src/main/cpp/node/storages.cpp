// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The table of storages: their life from lazy through realized to lost.
#include "node/call.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>

namespace remora {

int64_t Executor::storage_bytes() const {
  int64_t bytes = 0;
  storages_.each([&](int64_t, const Storage& storage) {
    if (storage.memory) bytes += static_cast<int64_t>(storage.memory.nbytes());
  });
  return bytes;
}

c10::Allocator* Executor::allocator(uint32_t device) const { return c10::GetAllocator(devices_[device].type()); }

int64_t Executor::next_id(Reader& r) {
  auto id = read_storage(r, newest_);
  newest_ = std::max(newest_, id);
  return id;
}

Executor::Storage& Executor::born(int64_t id, uint64_t bytes, uint32_t device) {
  bool created = false;
  auto& storage = storages_.at(id, &created);
  if (!created) {  // a hostile batch may create a storage twice
    account(storage, true);
    storage = Storage();
  }
  storage.bytes = bytes;
  storage.device = device;
  born_.push_back(id);
  return storage;
}

// Updates the count of allocated bytes, and its peak, for one storage.
void Executor::account(Storage& storage, bool gone) {
  uint64_t now = gone || !storage.memory ? 0 : storage.memory.nbytes();
  if (now != storage.accounted) {
    auto& memory = memory_[storage.device];
    memory.allocated += now - storage.accounted;
    memory.peak = std::max(memory.peak, memory.allocated);
    storage.accounted = now;
  }
}

void Executor::realize(Storage& storage) {
  if (storage.memory) {
    return;
  }
  c10::DeviceGuard guard(devices_[storage.device]);
  storage.memory = c10::Storage(c10::Storage::use_byte_size_t(), static_cast<int64_t>(storage.bytes),
                                allocator(storage.device), true);
  account(storage);
}

bool Executor::lacks_values(Storage& storage) {
  if (storage.failure && storage.has_values && (storage.failure->told || storage.failure->number <= told_)) {
    storage.failure = nullptr;
  }
  return storage.failure != nullptr;
}

void Executor::spoil(Storage& storage, std::shared_ptr<Failure> failure) {
  storage.failure = std::move(failure);
  storage.rewritten = 0;
}

// Reads a storage by id, or a new one. kWrite, kResize and kBind name storages this way.
Executor::Storage& Executor::storage_record(Reader& r, int64_t* id) {
  auto is_new = r.u8() != 0;
  *id = next_id(r);
  if (is_new) {
    auto device = r.bounded(2 * devices_.size() - 1, "a device") / 2;
    auto bytes = r.bounded(kMaxStorageBytes, "a storage's size");
    return born(*id, bytes, static_cast<uint32_t>(device));
  }
  auto* storage = storages_.find(*id);
  if (storage == nullptr) {
    r.fail("storage " + std::to_string(*id) + " is not on this node");
  }
  return *storage;
}

void Executor::free(int64_t id) {
  auto* storage = storages_.find(id);
  if (storage == nullptr) {
    if (restarted()) return;  // it was about to be freed when the program named those that it had
    reader_->fail("storage " + std::to_string(id) + " cannot be freed: it is not on this node");
  }
  if (storage->reported) {
    freed_.push_back(id);
  }
  account(*storage, true);
  storages_.erase(id);
}

void Executor::free_many(Reader& r) {
  auto previous = newest_;
  for (auto n = r.count("a count of frees"); n > 0; n--) {
    previous = read_storage(r, previous);
    free(previous);
  }
}

// The failure of storages whose values a restoration has lost.
std::shared_ptr<Failure> Executor::lost_at_restore(std::string message) {
  auto lost = std::make_shared<Failure>();
  lost->number = ++failures_;
  lost->call = 0;
  lost->operation = "restore";
  lost->error = "StaleReferenceException";
  lost->message = std::move(message);
  return lost;
}

void Executor::restart(Reader& r) {
  auto epoch = r.bounded(UINT64_MAX >> kEpochShift, "an epoch");
  auto newest = static_cast<int64_t>(r.bounded(INT64_MAX, "a storage number"));
  auto calls = r.varint();
  forget();
  operators_.clear();
  settings_ = first_settings();
  asked_.clear();
  newest_ = newest;
  calls_ = calls;
  failures_ = std::max(failures_, epoch << kEpochShift);
  auto lost = lost_at_restore(
      "the tensor's values are gone: it was made after the step to which the session went back; " +
      std::string(r.string()));
  std::vector<int64_t> named;
  int64_t id = 0;
  for (auto n = r.count("a count of storages"); n > 0; n--) {
    if (__builtin_add_overflow(id, static_cast<int64_t>(r.bounded(INT64_MAX, "a storage number")), &id) ||
        (!named.empty() && id <= named.back()) || id <= 0) {
      r.fail("storage numbers are not in order");
    }
    auto device = static_cast<uint32_t>(r.bounded(devices_.size() - 1, "a device"));
    auto bytes = r.bounded(kMaxStorageBytes, "a storage's size");
    named.push_back(id);
    if (storages_.find(id) == nullptr) {
      born(id, bytes, device).failure = lost;
    }
  }
  std::vector<int64_t> dropped;
  storages_.each([&](int64_t each, const Storage&) {
    if (!std::binary_search(named.begin(), named.end(), each)) dropped.push_back(each);
  });
  for (auto each : dropped) free(each);
}

void Executor::resize(Reader& r) {
  int64_t id = 0;
  auto& storage = storage_record(r, &id);
  auto bytes = r.bounded(kMaxStorageBytes, "a storage's size");
  if (!storage.memory || storage.memory.nbytes() == bytes) {
    storage.bytes = bytes;
    return;
  }
  try {
    c10::DeviceGuard guard(devices_[storage.device]);
    auto options = at::TensorOptions().dtype(at::kByte).device(devices_[storage.device]);
    auto old = at::empty({0}, options).set_(storage.memory);
    auto grown = at::empty({static_cast<int64_t>(bytes)}, options);
    auto kept = std::min<int64_t>(old.numel(), static_cast<int64_t>(bytes));
    grown.narrow(0, 0, kept).copy_(old.narrow(0, 0, kept));
    storage.keep(grown.storage());
    storage.bytes = bytes;
    account(storage);
  } catch (const std::exception& e) {
    Call none;
    none.name = "resize_";
    storage.has_values = false;  // the old values do not cover the size that the program expects
    spoil(storage, fail(none, e));
  }
}

void Executor::write(Reader& r) {
  int64_t id = 0;
  auto& storage = storage_record(r, &id);
  auto offset = r.bounded(kMaxStorageBytes, "an offset");
  auto bytes = r.count("an upload's size");
  auto* data = r.raw(bytes);
  Call call;
  call.name = "upload";
  try {
    realize(storage);
    TORCH_CHECK(offset + bytes <= storage.memory.nbytes(), "the upload ends at byte ", offset + bytes,
                ", the storage at ", storage.memory.nbytes());
    auto device = devices_[storage.device];
    if (device.is_cpu()) {
      copy_bytes(static_cast<uint8_t*>(storage.memory.mutable_data()) + offset, data, bytes);
    } else {
      auto target = at::empty({0}, at::TensorOptions().dtype(at::kByte).device(device))
                        .set_(storage.memory, static_cast<int64_t>(offset), {static_cast<int64_t>(bytes)}, {1});
      target.copy_(at::from_blob(const_cast<uint8_t*>(data), {static_cast<int64_t>(bytes)},
                                 at::TensorOptions().dtype(at::kByte)));
    }
  } catch (const std::exception& e) {
    spoil(storage, fail(call, e));
    return;
  }
  if (lacks_values(storage) && (offset == 0 || offset == storage.rewritten)) {
    storage.rewritten = offset + bytes;
    if (storage.rewritten == storage.memory.nbytes()) storage.failure = nullptr;
  }
  storage.has_values = storage.has_values || !storage.failure;
}

}  // namespace remora
