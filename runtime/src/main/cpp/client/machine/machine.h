// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The recording side of one machine: what the program records goes into its open batch, which is submitted under a lock
// of its own.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "client/machine/answers.h"
#include "client/machine/batch_progress.h"
#include "client/machine/batch_writer.h"
#include "client/machine/free_queue.h"
#include "client/machine/handles.h"
#include "client/machine/machine_state.h"
#include "client/machine/slots.h"
#include "client/machine/timeline.h"
#include "client/machine/waits.h"
#include "client/recorder/output_plan.h"
#include "client/recorder/plan_key.h"
#include "common/python_lock.h"
#include "common/wire.h"

namespace remora {

class Machine {
 public:
  Machine(int64_t handle, std::string name, int first_slot, int devices, size_t max_batch_bytes);

  static constexpr size_t kMaxPlans = 64 * 1024;

  const int64_t handle;
  const std::string name;
  const int first_slot;
  const int devices;
  const uint64_t first_seed;      // seed of the default generators, until the program seeds them
  std::atomic<bool> cuda{false};  // whether the node computes on CUDA

  // ---- for recording; all of these need the lock
  class Lock;
  // If an exception releases the lock between the begin and the end (or submission) of a record, the record is taken
  // back: all counts that the node keeps too return to their values before the record.
  // Drains frees. Throws if the machine is closed or failed, or was restored and the program does not know it yet; with
  // `tells` = false not for the latter.
  void begin_record(bool tells = true);
  void write_bind(int64_t request,
                  const std::vector<at::Tensor>& outputs);  // binds an asked call's outputs
  void end_record(bool operation = true);                   // submits the batch if it is full
  void count(Origin origin) {                               // of a call's outputs
    auto& calls = origins_[static_cast<size_t>(origin)];
    calls.store(calls.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  // Closes the batch and submits it; releases the lock meanwhile.
  void submit_open_batch(int64_t request = 0, at::Tensor destination = {});

  BatchWriter open;
  std::unordered_map<PlanKey, std::unique_ptr<Plan>, PlanKeyHash> plans;

  // ---- thread-safe
  void free_storage(StorageContext* context);
  void free_handle(Record record, int64_t handle);  // frees a generator or an event
  void told(uint64_t failure);                      // the program has thrown all failures up to that number
  // Asks the node and waits for its answer.
  std::string question(Question question, std::initializer_list<uint64_t> arguments);
  std::string question(Question question, const std::function<void()>& write_arguments);  // called with the lock
  // A device's memory, in bytes: allocated, peak allocated, reserved, peak reserved, total (0: unknown).
  std::array<int64_t, 5> memory(int device);
  // The "host:port" under which other nodes reach this machine's node; "" if unknown.
  std::string node_address();
  void set_node_address(std::string address);
  // Blocks; returns the answer, which is empty for values. `what` is what the program waits for, see Waits.
  std::string await(int64_t request, Waits::Cause cause, std::string_view what);
  // Like await(), for an asked call whose outputs will be bound. If the wait fails, the node drops the outputs.
  std::string await_outputs(int64_t request, Waits::Cause cause, std::string_view what);
  void answer(int64_t request, std::string bytes);
  int flush();
  int flush_when_idle(int64_t timeout_micros, int64_t linger_micros);
  void flush_for(uint64_t sequence);  // makes sure that the batch of this number is submitted
  // The program's step is complete: the node may make a checkpoint here.
  void mark(int64_t step);
  // The node has restored an earlier state. What was recorded so far is void, but for the storages' births and frees.
  // The next use throws `message`, unless a wait throws it before. Returns the first batch that counts.
  uint64_t restored(uint64_t epoch, const std::string& message);
  // Writes a timeline to a file from now on; see Timeline::start().
  std::string start_timeline(const std::string& file);
  // Completes the file, after the node has executed what is recorded, or the time has passed.
  void stop_timeline(std::chrono::milliseconds wait);
  // For torch.profiler, see Timeline::start_profile(). Does nothing if the machine is not open.
  void start_profile();
  // Sends what is recorded, and waits until the node has told of it, if it can. Returns what the profile lacks. Throws
  // nothing, and tells the program nothing.
  Timeline::Missing settle_profile(std::chrono::steady_clock::time_point deadline);
  void fail(const std::string& message);
  void close();
  // Throws if nothing can be recorded on the machine any more. The program gets the error.
  void check_usable(int64_t storage = 0) { state_.check_usable(storage); }
  // The same for a thread that sends what the program has recorded. The program does not get the error.
  void check_carries() { state_.check_carries(); }
  // Whether the program knows that the machine has failed.
  bool failure_told() const { return state_.failure_told(); }
  // Storages are numbered for each machine, so that equal steps use equal distances whatever other machines do.
  int64_t next_storage() { return storage_ids_.fetch_add(1, std::memory_order_relaxed) + 1; }
  int64_t next_request(int64_t count = 1) { return requests_.fetch_add(count) + 1; }  // the first of `count` numbers
  // These throw if too many are alive; free_handle() makes room.
  int64_t next_generator() { return kSlots + generators_.next(name); }
  int64_t next_event() { return events_.next(name); }
  bool on_cuda() const { return cuda.load(std::memory_order_relaxed); }
  int device_of_slot(int slot) const { return slot - first_slot; }
  bool closed() const { return state_.closed(); }
  bool open_for_work() const { return state_.open(); }

  BatchProgress progress;
  Timeline timeline{name, first_slot};
  Waits waits{timeline};
  // From this many bytes of live storages on, each batch is closed at once, so that the binding notices them.
  std::atomic<int64_t> notable_bytes{INT64_MAX};
  std::atomic<bool> trace{false};       // report a line of text for each operation
  std::atomic<bool> call_sites{false};  // report each operation before it is recorded
  std::atomic<int64_t> operations{0}, batches{0}, batch_bytes{0}, uploaded{0}, downloaded{0}, misses{0}, storages{0},
      storage_bytes{0};
  int64_t of_origin(Origin origin) const { return origins_[static_cast<size_t>(origin)].load(); }
  std::atomic<int64_t> kept_plans{0};

  friend void lock_machines();
  friend void unlock_machines();

 private:
  void note_end();  // the machine is no longer open
  void want_detail();

  const size_t max_batch_bytes_;
  std::array<std::atomic<int64_t>, static_cast<size_t>(Origin::kCount)> origins_{};
  int64_t submitted_operations_ = 0;
  std::mutex mutex_;
  std::mutex submit_mutex_;  // locked while holding mutex_, held after mutex_ is released
  MachineState state_{name};
  FreeQueue frees_;
  Answers answers_;
  std::atomic<int64_t> requests_{0};
  std::atomic<int64_t> storage_ids_{0};
  std::atomic<bool> restored_{false};  // the program is still to be told so
  std::string restored_message_;       // guarded by mutex_
  Handles generators_{"generators", kMaxGenerators - kSlots};
  Handles events_{"events", kMaxEvents};
  std::mutex address_mutex_;
  std::string node_address_;  // guarded by address_mutex_

  // ---- the flusher; guarded by mutex_
  std::condition_variable wake_flusher_;
  bool flusher_waits_ = false;
  int patience_ = 1;      // how many linger times a batch may grow while the node is idle
  int needless_ = 0;      // how many times in a row the flusher woke up for what the program submitted itself
  uint64_t flushed_ = 0;  // the batch that the flusher submitted last, and when
  std::chrono::steady_clock::time_point last_flush_;
  uint64_t noticed_ = 0;  // the open batch that the flusher saw last, and when it saw records in it first
  std::chrono::steady_clock::time_point noticed_at_;
};

class Machine::Lock {
 public:
  explicit Lock(Machine& machine) : machine_(machine), lock_(locked(machine.mutex_)) {}
  ~Lock() { machine_.open.take_back_record(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Machine& machine_;
  std::unique_lock<std::mutex> lock_;
};

}  // namespace remora
