// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/machine/machine.h"

#include <ATen/CPUGeneratorImpl.h>

#include <exception>
#include <utility>

#include "client/machine/callbacks.h"
#include "client/machine/slots.h"
#include "client/storage.h"

namespace remora {

namespace {

// The seed of torch::manual_seed(), or a random one.
uint64_t local_seed() {
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> guard(generator.mutex());
  return generator.current_seed();
}

}  // namespace

Machine::Machine(int64_t handle, std::string name, int first_slot, int devices, size_t max_batch_bytes)
    : handle(handle),
      name(std::move(name)),
      first_slot(first_slot),
      devices(devices),
      first_seed(local_seed()),
      open(first_slot),
      max_batch_bytes_(max_batch_bytes) {
  for (int device = 0; device < devices; device++) {
    open.write_seed(device, device, first_seed);
  }
  open.count_as_empty();
}

void Machine::fail(const std::string& message) {
  if (state_.fail(message)) {
    note_end();
  }
}

void Machine::close() {
  release_slots(*this);
  state_.close();
  note_end();
  try {
    timeline.stop();
  } catch (const std::exception&) {
    // stop_timeline() tells the program; here it only gives the machine back
  }
  Lock lock(*this);
  timeline.release();
  plans.clear();
  kept_plans = 0;
  open.abandon();
  frees_.abandon();
  answers_.clear();
}

void Machine::note_end() {
  wake_flusher_.notify_all();
  progress.wake();
  timeline.wake();
  if (callbacks().lost) {
    callbacks().lost(handle);
  }
}

// ---------------------------------------------------------------- recording

void Machine::begin_record(bool tells) {
  check_usable();
  if (tells && restored_.load(std::memory_order_relaxed) && restored_.exchange(false)) {
    throw_error(restored_message_);
  }
  while (!frees_.empty()) {
    frees_.record(open);
    if (open.weight() >= max_batch_bytes_) {
      submit_open_batch();
    }
  }
  open.begin_record();
}

void Machine::write_bind(int64_t request, const std::vector<at::Tensor>& outputs) {
  open.code(Record::kBind);
  open.varint(request);
  open.varint(outputs.size());
  for (const auto& output : outputs) {
    open.write_storage(*context_of(output));
  }
  end_record(false);
}

void Machine::mark(int64_t step) {
  Lock lock(*this);
  begin_record();
  open.code(Record::kMark);
  open.zigzag(step);
  submit_open_batch();
}

uint64_t Machine::restored(uint64_t epoch, const std::string& message) {
  Lock lock(*this);
  check_usable();
  while (!frees_.empty()) frees_.record(open);
  auto colon = message.find(": ");
  open.restart(epoch, colon == std::string::npos ? message : message.substr(colon + 2), known_storages(*this));
  restored_message_ = message;
  restored_.store(true);
  if (flusher_waits_) {
    flusher_waits_ = false;
    wake_flusher_.notify_one();
  }
  return open.sequence();
}

void Machine::told(uint64_t failure) {
  Lock lock(*this);
  if (!open_for_work()) {
    return;
  }
  begin_record(false);
  open.code(Record::kTold);
  open.varint(failure);
  end_record(false);
}

void Machine::end_record(bool operation) {
  open.end_record();
  if (operation) {
    operations.fetch_add(1, std::memory_order_relaxed);
  }
  if (open.weight() >= max_batch_bytes_ ||
      storage_bytes.load(std::memory_order_relaxed) >= notable_bytes.load(std::memory_order_relaxed)) {
    submit_open_batch();
  } else if (flusher_waits_) {
    flusher_waits_ = false;
    wake_flusher_.notify_one();
  }
}

void Machine::submit_open_batch(int64_t request, at::Tensor destination) {
  open.end_record();
  open.detail = timeline.detail();
  auto batch = open.close(max_batch_bytes_ + 4096);
  batch->machine = this;
  auto recorded = operations.load(std::memory_order_relaxed);
  batch->operations = recorded - std::exchange(submitted_operations_, recorded);
  batch->request = request;
  batch->destination = std::move(destination);
  batches.fetch_add(1, std::memory_order_relaxed);
  batch_bytes.fetch_add(static_cast<int64_t>(batch->bytes.size()), std::memory_order_relaxed);
  progress.note_submitted(batch->sequence);
  if (timeline.on()) timeline.submitted(batch->sequence, batch->bytes.size(), batch->operations);

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

std::string Machine::start_timeline(const std::string& file) {
  Lock lock(*this);
  begin_record();
  auto name = timeline.start(file);
  want_detail();
  end_record(false);
  return name;
}

// The node tells of the rest of the open batch what the timeline wants to know.
void Machine::want_detail() {
  auto before = std::exchange(open.detail, timeline.detail());
  if (before < open.detail) open.write_detail();
}

void Machine::start_profile() {
  Lock lock(*this);
  if (!open_for_work() || timeline.profiled()) {
    return;
  }
  timeline.start_profile();
  bool worth_sending = open.has_records();
  open.begin_record();
  want_detail();
  open.end_record();
  if (!worth_sending) open.count_as_empty();
}

Timeline::Missing Machine::settle_profile(std::chrono::steady_clock::time_point deadline) {
  try {
    Lock lock(*this);
    if (open_for_work() && timeline.hindered() == nullptr && open.has_records()) submit_open_batch();
  } catch (const std::exception&) {
    // The machine is gone. The program's next use of it throws.
  }
  PythonUnlocked unlocked;
  return timeline.await_profiled(open_for_work() ? deadline : std::chrono::steady_clock::time_point());
}

void Machine::stop_timeline(std::chrono::milliseconds wait) {
  auto deadline = std::chrono::steady_clock::now() + wait;
  if (timeline.in_file() && wait.count() > 0 && open_for_work()) {
    try {
      flush();
      timeline.await_executed(deadline);
    } catch (const std::exception&) {
      // The machine is gone; what was noted before is written.
    }
  }
  timeline.stop();
  if (open_for_work()) {  // in a forked child it is not, and another thread may have the lock for ever
    Lock lock(*this);
    timeline.release();
  }
}

void Machine::free_storage(StorageContext* context) {
  storages.fetch_sub(1, std::memory_order_relaxed);
  storage_bytes.fetch_sub(static_cast<int64_t>(context->bytes), std::memory_order_relaxed);
  if (!state_.open()) {
    delete context;
    return;
  }
  frees_.add(context);
}

void Machine::free_handle(Record record, int64_t handle) {
  (record == Record::kFreeEvent ? events_ : generators_).release();
  if (state_.open()) {
    frees_.add(record, handle);
  }
}

std::string Machine::node_address() {
  std::lock_guard<std::mutex> guard(address_mutex_);
  return node_address_;
}

void Machine::set_node_address(std::string address) {
  std::lock_guard<std::mutex> guard(address_mutex_);
  node_address_ = std::move(address);
}

}  // namespace remora
