// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/machine.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "client/device/generator.h"
#include "client/storage.h"
#include "common/torch_version.h"

namespace remora {

namespace {

std::array<std::atomic<Machine*>, kSlots> slots{};
std::array<std::atomic<Machine*>, kSlots> former{};  // the closed machine that had the slot last
std::mutex machines_mutex;
constexpr ptrdiff_t kFreesAtOnce = 32 * 1024;

// Machines are never deleted: a tensor may outlive its machine, and then names the machine in its errors.
std::vector<std::unique_ptr<Machine>>& machines() {
  static auto* all = new std::vector<std::unique_ptr<Machine>>();
  return *all;
}

// The seed of torch::manual_seed(), or a random one.
uint64_t local_seed() {
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> guard(generator.mutex());
  return generator.current_seed();
}

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

Machine* open_machine_at(int slot) { return slots[slot].load(std::memory_order_acquire); }

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
    raise("MachineStateException", "no machine is open on device remora:" + std::to_string(index) +
                                       "; open one with RemoteMachine.open(provider) and use machine.device()");
  }
  if (slot != nullptr) {
    *slot = index;
  }
  return *machine;
}

// ---------------------------------------------------------------- recording

void Machine::start_batch() {
  open.clear();
  open.u8(kBatchMagic);
  open.u8(kWireVersion);
  empty_size_ = open.size();
  last_id_ = 0;
}

void Machine::check_usable(int64_t storage) {
  auto state = state_.load(std::memory_order_acquire);
  if (state != kOpen) {
    if (state == kFailed) failure_told_.store(true, std::memory_order_release);
    throw_unusable(state, storage);
  }
}

void Machine::check_carries() {
  auto state = state_.load(std::memory_order_acquire);
  if (state != kOpen) throw_unusable(state, 0);
}

void Machine::throw_unusable(int state, int64_t storage) {
  if (state == kClosed) {
    raise(storage ? "StaleReferenceException" : "MachineStateException",
          storage ? "storage " + std::to_string(storage) + " was on machine '" + name +
                        "', which is closed; its tensors cannot be used any more"
                  : "machine '" + name + "' is closed");
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
    raise("RemoraException", "the description of one operation is limited to " + std::to_string(kMaxBatchBytes) +
                                 " bytes, this one takes " + std::to_string(open.size() - before_record_.bytes) +
                                 "; call it with fewer tensors or values at a time");
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
    raise("RemoraException", "machine '" + machine.name + "' already has " + std::to_string(most) + " " + what +
                                 ", the most that it can have at one time; delete some");
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
  // Keep the list's memory for the next use.
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

// The bits and bytes that describe a tensor, without its storage.
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
  auto* context = context_of(t);  // storage_of() has checked the tensor
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
      auto same = std::exchange(context->call, calls) == calls ? std::find(known.begin(), known.end(), impl)
                                                               : known.end();
      if (same == known.end()) {
        write_tensor(t, named);
      } else {
        open.code(Tag::kSameTensor);
        open.varint(same - known.begin());
      }
      known.push_back(impl);
    } else {  // a 0-dim CPU tensor is sent by value
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
  } else if (is_unsigned(value)) {
    open.code(Tag::kUnsigned);
    open.varint(unsigned_of(value));
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
    open.varint(device.type() == kRemora ? device_of_slot(device.has_index() ? device.index() : current_slot()) + 1
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
      raise("RemoraException",
            info.full_name + ": a machine accepts " + std::to_string(kMaxOperators) + " different operators at most");
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
  // Other threads may record while this thread submits the batch, which can take a while. Batches are submitted one at
  // a time and in order, so this thread queues for its turn before it releases the lock.
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
  // From here on the callee owns the batch, even if it fails.
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
    take();  // the answer may have arrived just after the wait ended
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
      // The machine is gone, and the node has dropped the outputs with it.
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

// The midpoint of two times, in steady_clock's ticks.
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

// Waits, without the lock, until the node has executed every batch.
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
      // If the node finishes a batch before the next one is recorded, smaller batches do not help the node and each
      // costs the program time: wait longer. If the node is slower, or the program reads values, do not wait.
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
      // Keep the linger time since the last flush: each batch costs the program time.
      std::this_thread::sleep_until(last_flush_ + microseconds(linger_micros));
      lock.lock();
    } else {
      flusher_waits_ = true;
      // Frees do not wake the flusher, so that a free costs next to nothing. The flusher looks for them a few times per
      // second.
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
