// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine.h"

#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/ScalarTypeToTypeMeta.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "common/torch_version.h"

namespace remora {

namespace {

std::atomic<int64_t> next_storage_id{1};
std::array<std::atomic<Machine*>, kSlots> slots{};
std::array<std::atomic<Machine*>, kSlots> former{};  // the closed machine that had the slot last
std::mutex machines_mutex;
constexpr ptrdiff_t kFreesAtOnce = 32 * 1024;

// Machines stay for the life of the process: a tensor may outlive its machine, and then says so.
std::vector<std::unique_ptr<Machine>>& machines() {
  static auto* all = new std::vector<std::unique_ptr<Machine>>();
  return *all;
}

// What torch::manual_seed() has set, or a random one.
uint64_t local_seed() {
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> guard(generator.mutex());
  return generator.current_seed();
}

// The addresses that live storages have. None is one of memory of this process: they begin where no process has any.
class Addresses {
 public:
  void take(StorageContext* storage) {
    // The byte behind the last is the storage's, too.
    auto room = (storage->bytes + kAlignment) / kAlignment * kAlignment;
    std::lock_guard<std::mutex> guard(mutex_);
    bool again = false;
    auto ahead = ranges_.empty() || next_ > ranges_.rbegin()->first ? ranges_.end() : ranges_.lower_bound(next_);
    while ((ahead == ranges_.end() ? kEnd : ahead->first) - next_ < room) {
      if (ahead != ranges_.end()) {
        next_ = ahead->first + ahead->second->room;
        ++ahead;
      } else {
        TORCH_CHECK(!std::exchange(again, true), "no addresses are left for a storage of ", storage->bytes, " bytes");
        next_ = kFirst;
        ahead = ranges_.begin();
      }
    }
    storage->address = next_;
    storage->room = room;
    ranges_.emplace_hint(ahead, next_, storage);
    next_ += room;
  }
  void give_back(StorageContext* storage) {
    std::lock_guard<std::mutex> guard(mutex_);
    ranges_.erase(storage->address);
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
  std::map<uint64_t, StorageContext*> ranges_;
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

#if REMORA_TORCH >= 209
// What torch.accelerator asks of a device's memory; the node knows it.
struct RemoteMemory : c10::DeviceAllocator {
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    for (int slot = 0; slot < kSlots; slot++) {
      auto* machine = slots[slot].load(std::memory_order_acquire);
      if (machine != nullptr && machine->open_for_work()) {
        machine->question(Question::kEmptyCache, {static_cast<uint64_t>(machine->device_of_slot(slot))});
      }
    }
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}  // one stream: nothing to keep alive for another
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    auto figures = of(device);
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].current = stats.active_bytes[0].current = figures[0];
    stats.allocated_bytes[0].peak = stats.active_bytes[0].peak = figures[1];
    stats.reserved_bytes[0].current = figures[2];
    stats.reserved_bytes[0].peak = figures[3];
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}  // totals of all times are not kept
  void resetPeakStats(c10::DeviceIndex device) override {
    int slot = 0;
    auto& machine = machine_of(remora_device(device), &slot);
    machine.question(Question::kResetPeakMemory, {static_cast<uint64_t>(machine.device_of_slot(slot))});
  }
#if REMORA_TORCH >= 210
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    auto figures = of(device);
    return {std::max<int64_t>(0, figures[4] - figures[2]), figures[4]};
  }
#endif

 private:
  static std::array<int64_t, 5> of(c10::DeviceIndex device) {
    int slot = 0;
    auto& machine = machine_of(remora_device(device), &slot);
    return machine.memory(machine.device_of_slot(slot));
  }
};
#else
using RemoteMemory = c10::Allocator;
#endif

class RemoteAllocator final : public RemoteMemory {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    int slot = current_slot();
    auto& machine = machine_of(c10::Device(kRemora, static_cast<c10::DeviceIndex>(slot)));
    return allocate_on(machine, slot, bytes);
  }
  static c10::DataPtr allocate_on(Machine& machine, int slot, size_t bytes) {
    auto id = next_storage_id.fetch_add(1, std::memory_order_relaxed);
    auto context = std::make_unique<StorageContext>(StorageContext{&machine, id, machine.device_of_slot(slot), bytes});
    addresses().take(context.get());
    machine.storages.fetch_add(1, std::memory_order_relaxed);
    machine.storage_bytes.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
    auto* address = reinterpret_cast<void*>(context->address);
    return {address, context.release(), &delete_context, c10::Device(kRemora, static_cast<c10::DeviceIndex>(slot))};
  }
  // The data pointer is not the context, so memory from here cannot be handed around as a raw pointer.
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, size_t) const override {
    raise("RemoraException", "a storage of a remote device cannot be copied as raw memory; use tensor.clone()");
  }
};
RemoteAllocator remote_allocator;
REGISTER_ALLOCATOR(kRemora, &remote_allocator);

}  // namespace

Callbacks& callbacks() {
  static Callbacks installed;
  return installed;
}

// ---------------------------------------------------------------- machines and slots

Machine::Machine(int64_t handle, std::string name, int devices, size_t max_batch_bytes)
    : handle(handle),
      name(std::move(name)),
      devices(devices),
      first_seed(local_seed()),
      max_batch_bytes_(max_batch_bytes) {
  start_batch();
  for (int device = 0; device < devices; device++) {
    write_seed(device, device, first_seed);
  }
  empty_size_ = open.size();  // seeds alone are not worth sending
}

Machine* open_machine(const char* name, int devices, size_t max_batch_bytes) {
  std::lock_guard<std::mutex> guard(machines_mutex);
  for (int first = 0; first + devices <= kSlots; first++) {
    bool free = true;
    for (int i = 0; i < devices; i++) {
      free = free && slots[first + i].load() == nullptr;
    }
    if (!free) {
      continue;
    }
    auto handle = static_cast<int64_t>(machines().size()) + 1;
    machines().push_back(std::make_unique<Machine>(handle, name, devices, max_batch_bytes));
    auto* machine = machines().back().get();
    machine->first_slot = first;
    for (int i = 0; i < devices; i++) {
      slots[first + i].store(machine, std::memory_order_release);
    }
    return machine;
  }
  return nullptr;
}

Machine* find_machine(int64_t handle) {
  std::lock_guard<std::mutex> guard(machines_mutex);
  return handle >= 1 && handle <= static_cast<int64_t>(machines().size()) ? machines()[handle - 1].get() : nullptr;
}

void lock_machines() {
  machines_mutex.lock();
  for (auto& each : machines()) each->state_mutex_.lock();
}
void unlock_machines() {
  for (auto& each : machines()) each->state_mutex_.unlock();
  machines_mutex.unlock();
}

int open_devices() {
  int count = 0;
  for (auto& slot : slots) {
    count += slot.load(std::memory_order_acquire) != nullptr;
  }
  return count;
}

int slots_in_use() {
  int count = kSlots;
  while (count > 0 && slots[count - 1].load(std::memory_order_acquire) == nullptr) {
    count--;
  }
  return count;
}

Machine& last_machine_of(int slot) {
  auto* closed = slot < kSlots && slots[slot].load(std::memory_order_acquire) == nullptr
                     ? former[slot].load(std::memory_order_acquire)
                     : nullptr;
  return closed != nullptr ? *closed : machine_of(c10::Device(kRemora, static_cast<c10::DeviceIndex>(slot)), nullptr);
}

Machine& machine_of(c10::Device device, int* slot) {
  int index = device.has_index() ? device.index() : current_slot();
  auto* machine = index < kSlots ? slots[index].load(std::memory_order_acquire) : nullptr;
  if (machine == nullptr) {
    auto* closed = index < kSlots ? former[index].load(std::memory_order_acquire) : nullptr;
    if (closed != nullptr) {
      raise("StaleReferenceException", "device remora:" + std::to_string(index) + " was machine '" + closed->name +
                                           "', which is closed; its tensors and device cannot be used any more");
    }
    raise("MachineStateException",
          "no machine is open on device remora:" + std::to_string(index) +
              "; open one with RemoteMachine.open(provider) and use machine.device()");
  }
  if (slot != nullptr) {
    *slot = index;
  }
  return *machine;
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
                                         " is over memory that no machine has: it was made from a pointer, or is part "
                                         "of a storage that has been resized; make it from a tensor of the device");
  }
  if (auto shift = byte_shift(t, *storage)) {
    auto itemsize = static_cast<int64_t>(t.element_size());
    TORCH_CHECK(shift % itemsize == 0, "the tensor's memory begins at byte ", shift, " of storage ", storage->id,
                ", which is not a multiple of the ", itemsize, " bytes of its elements; view it as bytes and clone it");
    auto end = at::detail::computeStorageNbytes(t.sizes(), t.strides(), itemsize, t.storage_offset() + shift / itemsize);
    TORCH_CHECK(end <= storage->bytes, "the tensor ends at byte ", end, " of storage ", storage->id, ", which has ",
                storage->bytes);
  }
  return *storage;
}

c10::Device device_of_address(const void* address) {
  auto* storage = addresses().find(address);
  if (storage == nullptr) {
    raise("StaleReferenceException", "no machine has memory at the address");
  }
  return {kRemora, static_cast<c10::DeviceIndex>(storage->machine->first_slot + storage->device)};
}

void check_storage_bytes(size_t bytes) {
  TORCH_CHECK_WITH(OutOfMemoryError, bytes <= kMaxStorageBytes, "remora out of memory. Tried to allocate ", bytes,
                   " bytes, a storage on a machine has at most ", kMaxStorageBytes, ".");
}

at::Tensor new_tensor(Machine& machine, int slot, const TensorMeta& meta, size_t storage_bytes) {
  check_storage_bytes(storage_bytes);
  c10::Storage storage(c10::Storage::use_byte_size_t(), static_cast<int64_t>(storage_bytes),
                       RemoteAllocator::allocate_on(machine, slot, storage_bytes), &remote_allocator, true);
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

StorageContext& whole_storage(c10::StorageImpl* storage) {
  // A part of a storage has another deleter.
  TORCH_CHECK(storage->resizable() && storage->data_ptr().get_deleter() == &delete_context,
              "Trying to resize storage that is not resizable");
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
    machine.write_storage(context);
    machine.open.varint(bytes);
    machine.end_record(false);
  }
}

// ---------------------------------------------------------------- recording

void Machine::start_batch() {
  open.clear();
  open.u8(kBatchMagic);
  open.u8(kWireVersion);
  empty_size_ = open.size();
  last_id_ = 0;
}

void Machine::check_usable(int64_t storage, bool tells) {
  auto state = state_.load(std::memory_order_acquire);
  if (state == kOpen) {
    return;
  }
  if (state == kClosed) {
    raise(storage ? "StaleReferenceException" : "MachineStateException",
          storage ? "storage " + std::to_string(storage) + " was on machine '" + name +
                        "', which is closed; its tensors cannot be used any more"
                  : "machine '" + name + "' is closed");
  }
  if (tells) {
    failure_told_.store(true, std::memory_order_release);
  }
  std::lock_guard<std::mutex> guard(state_mutex_);
  throw_error(failure_);
}

void Machine::begin_record() {
  check_usable();
  while (has_frees_.load(std::memory_order_acquire)) {
    drain_frees();
    if (open.size() >= max_batch_bytes_) {
      submit_open_batch();
    }
  }
  before_record_ = {open.size(), born.size(), last_id_, defined_, settings_};
  record_births_.clear();
  recording_ = true;
}

void Machine::finish_record() {
  if (recording_ && open.size() > kMaxBatchBytes) {
    raise("RemoraException", "one operation can be described in " + std::to_string(kMaxBatchBytes) +
                                 " bytes at most, not in " + std::to_string(open.size() - before_record_.bytes) +
                                 "; call it for fewer tensors or values at a time");
  }
  recording_ = false;
}

void Machine::take_back_record() {
  recording_ = false;
  open.truncate(before_record_.bytes);
  born.resize(before_record_.born);
  for (auto* context : record_births_) context->born = 0;
  last_id_ = before_record_.last_id;
  for (auto& index : wire_indices_) {
    if (index >= static_cast<int32_t>(before_record_.defined)) index = -1;
  }
  defined_ = before_record_.defined;
  settings_ = before_record_.settings;
}

void Machine::write_seed(int64_t generator, int device, uint64_t seed) {
  open.code(Record::kSeed);
  open.varint(generator);
  open.varint(device);
  open.varint(seed);
}

int64_t Machine::Handles::next(const Machine& machine, uint64_t most, const char* what) {
  if (alive.fetch_add(1, std::memory_order_relaxed) >= static_cast<int64_t>(most)) {
    alive.fetch_sub(1, std::memory_order_relaxed);
    raise("RemoraException", "machine '" + machine.name + "' has " + std::to_string(most) + " " + what +
                                 " already, and cannot have more at one time; let go of some");
  }
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

void Machine::drain_frees() {
  std::vector<StorageContext*> storages_to_free;
  std::vector<std::pair<Record, int64_t>> handles_to_free;
  {
    std::lock_guard<std::mutex> guard(free_mutex_);
    if (frees_.size() <= kFreesAtOnce) {
      storages_to_free.swap(frees_);
    } else {
      storages_to_free.assign(frees_.end() - kFreesAtOnce, frees_.end());
      frees_.resize(frees_.size() - kFreesAtOnce);
    }
    handles_to_free.swap(handle_frees_);
    has_frees_.store(!frees_.empty(), std::memory_order_release);
  }
  for (auto* context : storages_to_free) {
    if (context->born != 0) {
      open.code(Record::kFree);
      open.zigzag(context->id - last_id_);
      last_id_ = context->id;
      if (context->born == sequence.load(std::memory_order_relaxed) + 1) {
        born[context->birth] = 0;
      } else {
        freed.push_back(context->id);
      }
    }
    delete context;
  }
  for (auto [record, handle] : handles_to_free) {
    open.code(record);
    open.varint(handle);
  }
  // Keep the list's memory for the next round.
  storages_to_free.clear();
  std::lock_guard<std::mutex> guard(free_mutex_);
  if (frees_.empty() && frees_.capacity() < storages_to_free.capacity()) {
    frees_.swap(storages_to_free);
  }
}

void Machine::free_storage(StorageContext* context) {
  storages.fetch_sub(1, std::memory_order_relaxed);
  storage_bytes.fetch_sub(static_cast<int64_t>(context->bytes), std::memory_order_relaxed);
  if (state_.load(std::memory_order_acquire) != kOpen) {
    delete context;
    return;
  }
  std::lock_guard<std::mutex> guard(free_mutex_);
  frees_.push_back(context);
  has_frees_.store(true, std::memory_order_release);
}

void Machine::free_handle(Record record, int64_t handle) {
  (record == Record::kFreeEvent ? events_ : generators_).alive.fetch_sub(1, std::memory_order_relaxed);
  if (state_.load(std::memory_order_acquire) != kOpen) {
    return;
  }
  std::lock_guard<std::mutex> guard(free_mutex_);
  handle_frees_.emplace_back(record, handle);
  has_frees_.store(true, std::memory_order_release);
}

void Machine::told(uint64_t failure) {
  Lock lock(*this);
  if (!open_for_work()) {
    return;
  }
  begin_record();
  open.code(Record::kTold);
  open.varint(failure);
  end_record(false);
}

void Machine::note_birth(StorageContext& storage) {
  storage.born = sequence.load(std::memory_order_relaxed) + 1;
  storage.birth = static_cast<uint32_t>(born.size());
  record_births_.push_back(&storage);
  born.insert(born.end(), {storage.id, static_cast<int64_t>(storage.bytes), storage.device});
}

void Machine::write_storage(StorageContext& storage) {
  bool is_new = storage.born == 0;
  open.u8(is_new ? 1 : 0);
  open.zigzag(storage.id - last_id_);
  last_id_ = storage.id;
  if (is_new) {
    open.varint(static_cast<uint64_t>(storage.device) * 2);
    open.varint(storage.bytes);
    note_birth(storage);
  }
}

namespace {

// The bits and bytes that describe a tensor, except its storage.
uint8_t meta_bits(const TensorView& now, const TensorView& previous) {
  uint8_t bits = kTensor;
  if (now.dtype == previous.dtype && now.offset == previous.offset && now.sizes == previous.sizes &&
      now.strides == previous.strides) {
    return bits | kSameMeta;
  }
  if (!strides_are_contiguous(now.sizes, now.strides)) {
    bits |= kStrided;
  }
  if (now.offset != 0) {
    bits |= kOffset;
  }
  return bits;
}

void write_meta(Writer& w, uint8_t bits, const TensorView& now) {
  if (bits & kSameMeta) {
    return;
  }
  w.code(now.dtype);
  w.varint(now.sizes.size());
  for (auto size : now.sizes) w.varint(size);
  if (bits & kStrided) {
    for (auto stride : now.strides) w.zigzag(stride);
  }
  if (bits & kOffset) {
    w.varint(now.offset);
  }
}

}  // namespace

void Machine::write_tensor(const at::Tensor& t, NamedTensors& named) {
  auto* context = context_of(t);  // storage_of() has found it in order
  auto shift = byte_shift(t, *context) / static_cast<int64_t>(t.element_size());
  TensorView now{t.scalar_type(), t.sizes(), t.strides(), t.storage_offset() + shift};
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) {
    open.code(Tag::kWrapped);
  }
  uint8_t bits = meta_bits(now, named.previous);
  if (t.is_conj()) bits |= kConj;
  if (t.is_neg()) bits |= kNeg;
  bool is_new = context->born == 0;
  if (is_new) bits |= kNew;
  open.u8(bits);
  open.zigzag(context->id - last_id_);
  last_id_ = context->id;
  if (is_new) {
    size_t covered = at::detail::computeStorageNbytes(now.sizes, now.strides, t.element_size(), now.offset);
    bool exact = covered == context->bytes;
    open.varint(static_cast<uint64_t>(context->device) * 2 + (exact ? 1 : 0));
    if (!exact) {
      open.varint(context->bytes);
    }
    note_birth(*context);
  }
  write_meta(open, bits, now);
  named.previous = now;
}

void Machine::write_argument(const c10::IValue& value, NamedTensors& named) {
  auto tensor = [&](const at::Tensor& t) {
    if (!t.defined()) {
      open.code(Tag::kUndefined);
    } else if (t.device().type() == kRemora) {
      const auto* impl = t.unsafeGetTensorImpl();
      auto* context = context_of(t);
      auto& known = named.arguments;
      auto same = std::exchange(context->call, calls) == calls ? std::find(known.begin(), known.end(), impl) : known.end();
      if (same == known.end()) {
        write_tensor(t, named);
      } else {
        open.code(Tag::kSameTensor);
        open.varint(same - known.begin());
      }
      known.push_back(impl);
    } else {  // a 0-dim CPU tensor: travels by value
      auto plain = t.is_conj() || t.is_neg() ? t.resolve_conj().resolve_neg() : t;
      open.code(Tag::kScalarTensor);
      open.code(plain.scalar_type());
      open.u8(t.unsafeGetTensorImpl()->is_wrapped_number() ? 1 : 0);
      open.raw(plain.const_data_ptr(), plain.element_size());
    }
  };
  if (value.isTensor()) {
    tensor(value.toTensor());
  } else if (value.isNone()) {
    open.code(Tag::kNone);
  } else if (value.isInt()) {
    open.code(Tag::kInt);
    open.zigzag(value.toInt());
  } else if (value.isUnsigned()) {
    open.code(Tag::kUnsigned);
    open.varint(value.toUInt());
  } else if (value.isDouble()) {
    open.code(Tag::kDouble);
    open.f64(value.toDouble());
  } else if (value.isBool()) {
    open.code(value.toBool() ? Tag::kTrue : Tag::kFalse);
  } else if (value.isTensorList()) {
    auto list = value.toListRef();
    open.code(Tag::kTensorList);
    open.varint(list.size());
    for (const auto& element : list) tensor(element.toTensor());
  } else if (value.isIntList()) {
    auto list = value.toIntVector();
    open.code(Tag::kIntList);
    open.varint(list.size());
    for (auto element : list) open.zigzag(element);
  } else if (value.isDoubleList()) {
    auto list = value.toDoubleVector();
    open.code(Tag::kDoubleList);
    open.varint(list.size());
    for (auto element : list) open.f64(element);
  } else if (value.isBoolList()) {
    auto list = value.toBoolList();
    open.code(Tag::kBoolList);
    open.varint(list.size());
    for (bool element : list) open.u8(element ? 1 : 0);
  } else if (value.isOptionalTensorList()) {
    auto list = value.toListRef();
    open.code(Tag::kOptionalTensorList);
    open.varint(list.size());
    for (const auto& element : list) tensor(element.isNone() ? at::Tensor() : element.toTensor());
  } else if (value.isComplexDouble()) {
    auto number = value.toComplexDouble();
    open.code(Tag::kComplex);
    open.f64(number.real());
    open.f64(number.imag());
  } else if (value.isString()) {
    open.code(Tag::kString);
    open.text(value.toStringView());
  } else if (value.isDevice()) {
    auto device = value.toDevice();
    open.code(Tag::kDevice);
    open.varint(device.type() == kRemora
                    ? device_of_slot(device.has_index() ? device.index() : current_slot()) + 1
                    : 0);
  } else if (value.isGenerator()) {
    auto generator = value.toGenerator();
    open.code(Tag::kGenerator);
    open.varint(generator_id(generator));
    open.varint(device_of_slot(generator.device().index()));
  } else if (value.isList()) {
    auto list = value.toListRef();
    open.code(Tag::kList);
    open.varint(list.size());
    for (const auto& element : list) write_argument(element, named);
  } else {
    raise("RemoraException", "an argument of kind " + value.tagKind() + " cannot be sent to a remote device");
  }
}

uint32_t Machine::wire_index(const OperatorInfo& info) {
  if (info.index >= wire_indices_.size()) {
    wire_indices_.resize(info.index + 64, -1);
  }
  auto& index = wire_indices_[info.index];
  if (index < 0) {
    if (defined_ >= kMaxOperators) {
      raise("RemoraException", info.full_name + ": a machine can be sent " + std::to_string(kMaxOperators) +
                                   " different operators at most");
    }
    index = static_cast<int32_t>(defined_++);
    open.code(Record::kDefineOperator);
    open.varint(index);
    info.write_definition(open);
  }
  return static_cast<uint32_t>(index);
}

void Machine::write_settings(const OperatorInfo& info, Settings settings) {
  if (info.multiplies || !settings_) {
    settings.add_precision();
  } else {
    settings.add_precision(*settings_);
  }
  if (settings_ != settings) {
    settings_ = settings;
    open.code(Record::kSettings);
    settings.write(open);
  }
}

void Machine::write_bind(int64_t request, const std::vector<at::Tensor>& outputs) {
  open.code(Record::kBind);
  open.varint(request);
  open.varint(outputs.size());
  for (const auto& output : outputs) {
    write_storage(*context_of(output));
  }
  end_record(false);
}

void Machine::end_record(bool operation) {
  finish_record();
  if (operation) {
    operations.fetch_add(1, std::memory_order_relaxed);
  }
  if (open.size() >= max_batch_bytes_ ||
      storage_bytes.load(std::memory_order_relaxed) >= notable_bytes.load(std::memory_order_relaxed)) {
    submit_open_batch();
  } else if (flusher_waits_) {
    flusher_waits_ = false;
    wake_flusher_.notify_one();
  }
}

void Machine::submit_open_batch(int64_t request, at::Tensor destination) {
  finish_record();
  auto batch = std::make_unique<Batch>();
  batch->machine = this;
  batch->sequence = sequence.load(std::memory_order_relaxed) + 1;
  batch->bytes.reserve(max_batch_bytes_ + 4096);
  batch->bytes.swap(open);
  auto recorded = operations.load(std::memory_order_relaxed);
  batch->operations = recorded - std::exchange(submitted_operations_, recorded);
  batch->request = request;
  batch->destination = std::move(destination);
  batch->born.reserve(born.size());
  for (size_t i = 0; i < born.size(); i += 3) {
    if (born[i] != 0) {
      batch->born.insert(batch->born.end(), {born[i], born[i + 1], born[i + 2]});
    }
  }
  batch->freed.swap(freed);
  born.clear();
  start_batch();
  batches.fetch_add(1, std::memory_order_relaxed);
  batch_bytes.fetch_add(static_cast<int64_t>(batch->bytes.size()), std::memory_order_relaxed);
  sequence.store(batch->sequence, std::memory_order_release);

  const auto& submit = callbacks().submit;
  if (!submit) {
    raise("MachineStateException", "the native core's callbacks are not installed");
  }
  // Others may record while this batch is handed over, which can take a while; but batches are handed over one at a
  // time and in order, so that this thread queues for its turn before it lets them go on.
  auto turn = locked(submit_mutex_);
  mutex_.unlock();
  struct Relock {
    std::unique_lock<std::mutex>& turn;
    std::mutex& mutex;
    ~Relock() {
      turn.unlock();
      locked(mutex).release();
    }
  } relock{turn, mutex_};
  // The callee owns the batch from here on, whether it fails or not.
  submit(handle, batch.release());
}

std::string Machine::await(int64_t request) {
  blocking.fetch_add(1, std::memory_order_relaxed);
  auto take = [&] {
    std::lock_guard<std::mutex> guard(answer_mutex_);
    auto answer = answers_.extract(request);
    return answer.empty() ? std::string() : std::move(answer.mapped());
  };
  try {
    callbacks().await(handle, request);
  } catch (...) {
    take();  // it may have come when the wait had just ended
    throw;
  }
  return take();
}

std::string Machine::await_outputs(int64_t request) {
  try {
    return await(request);
  } catch (...) {
    try {
      Lock lock(*this);
      begin_record();
      write_bind(request, {});
    } catch (const std::exception&) {
      // The machine is gone, and with it what it has kept.
    }
    throw;
  }
}

void Machine::answer(int64_t request, std::string bytes) {
  std::lock_guard<std::mutex> guard(answer_mutex_);
  answers_[request] = std::move(bytes);
}

std::string Machine::question(Question question, std::initializer_list<uint64_t> arguments) {
  return this->question(question, [&] {
    for (auto argument : arguments) open.varint(argument);
  });
}

std::string Machine::question(Question question, const std::function<void()>& write_arguments) {
  auto request = next_request();
  {
    Lock lock(*this);
    begin_record();
    open.code(Record::kQuestion);
    open.varint(request);
    open.code(question);
    write_arguments();
    submit_open_batch(request);
  }
  return await(request);
}

std::array<int64_t, 5> Machine::memory(int device) {
  auto answer = question(Question::kMemory, {static_cast<uint64_t>(device)});
  Reader r(reinterpret_cast<const uint8_t*>(answer.data()), answer.size());
  std::array<int64_t, 5> figures{};
  for (auto& figure : figures) figure = static_cast<int64_t>(r.varint());
  return figures;
}

std::string Machine::node_address() {
  std::lock_guard<std::mutex> guard(state_mutex_);
  return node_address_;
}

void Machine::set_node_address(std::string address) {
  std::lock_guard<std::mutex> guard(state_mutex_);
  node_address_ = std::move(address);
}

void Machine::flush_for(uint64_t wanted) {
  Lock lock(*this);
  if (sequence.load(std::memory_order_relaxed) < wanted) {
    begin_record();
    submit_open_batch();
  }
}

int Machine::flush() {
  Lock lock(*this);
  begin_record();
  if (open.size() > empty_size_) {
    submit_open_batch();
  }
  return 0;
}

namespace {

constexpr int kMostPatience = 16;

// Halfway between two times, as steady_clock's count.
int64_t middle(std::chrono::steady_clock::time_point a, std::chrono::steady_clock::time_point b) {
  return (a + (b - a) / 2).time_since_epoch().count();
}

}  // namespace

void Machine::note_executed(uint64_t batch) {
  executed_at_.store(std::chrono::steady_clock::now().time_since_epoch().count(), std::memory_order_relaxed);
  executed.store(batch, std::memory_order_seq_cst);
  if (awaits_idle_.load(std::memory_order_seq_cst) && batch >= sequence.load(std::memory_order_acquire)) {
    std::lock_guard<std::mutex> guard(idle_mutex_);
    idle_.notify_all();
  }
}

// Without the lock: waits until the node has executed every batch.
void Machine::await_idle_node(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock<std::mutex> lock(idle_mutex_);
  awaits_idle_.store(true, std::memory_order_seq_cst);
  idle_.wait_until(lock, deadline, [&] {
    return executed.load(std::memory_order_seq_cst) >= sequence.load(std::memory_order_acquire) || !open_for_work();
  });
  awaits_idle_.store(false, std::memory_order_relaxed);
}

int Machine::flush_when_idle(int64_t timeout_micros, int64_t linger_micros) {
  using namespace std::chrono;
  auto deadline = steady_clock::now() + microseconds(timeout_micros);
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    if (state_.load(std::memory_order_acquire) != kOpen) {
      return -1;
    }
    if (has_frees_.load(std::memory_order_acquire)) {
      drain_frees();
    }
    bool holds_something = open.size() > empty_size_;
    auto now = steady_clock::now();
    auto closed = sequence.load(std::memory_order_relaxed);
    if (holds_something && executed.load(std::memory_order_acquire) >= closed) {
      // Where the node is done with a batch before the next is recorded, it gains nothing from smaller batches, and
      // the program pays for each: wait longer. Where it is the slower one, or values are read, do not.
      bool kept_up = closed == flushed_ && executed_at_.load(std::memory_order_relaxed) < middle(last_flush_, now);
      patience_ = kept_up ? std::min(patience_ * 2, kMostPatience) : 1;
      last_flush_ = now;
      flushed_ = closed + 1;
      submit_open_batch();
      return 1;
    }
    if (now >= deadline) {
      return 0;
    }
    if (holds_something) {  // the node is busy
      lock.unlock();
      await_idle_node(deadline);
      // Not sooner than the last time either: the program pays for each batch.
      std::this_thread::sleep_until(last_flush_ + microseconds(linger_micros));
      lock.lock();
    } else {
      flusher_waits_ = true;
      // Frees do not wake the flusher, so that freeing costs next to nothing: look for them a few times a second.
      wake_flusher_.wait_until(lock, std::min(deadline, now + milliseconds(100)));
      bool woken = !flusher_waits_;
      flusher_waits_ = false;
      if (woken) {
        auto linger = microseconds(linger_micros * patience_);
        lock.unlock();
        std::this_thread::sleep_for(linger);
        lock.lock();
      }
    }
  }
}

void Machine::wake_flusher() {
  wake_flusher_.notify_all();
  std::lock_guard<std::mutex> guard(idle_mutex_);
  idle_.notify_all();
}

void Machine::fail(const std::string& message) {
  {
    std::lock_guard<std::mutex> guard(state_mutex_);
    if (state_.load() != kOpen) {
      return;
    }
    failure_ = message;
    state_.store(kFailed, std::memory_order_release);
  }
  wake_flusher();
  if (callbacks().lost) {
    callbacks().lost(handle);
  }
}

void Machine::close() {
  {
    std::lock_guard<std::mutex> guard(machines_mutex);
    for (int slot = 0; slot < kSlots; slot++) {
      if (slots[slot].load() == this) {
        former[slot].store(this, std::memory_order_release);
        slots[slot].store(nullptr, std::memory_order_release);
      }
    }
  }
  {
    std::lock_guard<std::mutex> guard(state_mutex_);
    state_.store(kClosed, std::memory_order_release);
  }
  wake_flusher();
  if (callbacks().lost) {
    callbacks().lost(handle);
  }
  Lock lock(*this);
  plans.clear();
  Writer().swap(open);
  start_batch();
  std::vector<StorageContext*> leftover;
  {
    std::lock_guard<std::mutex> guard(free_mutex_);
    leftover.swap(frees_);
  }
  for (auto* context : leftover) {
    delete context;
  }
  std::lock_guard<std::mutex> guard(answer_mutex_);
  answers_.clear();
}

}  // namespace remora
