// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The recording side of one machine: its device slots, its storages, its open batch, and the output metadata that it
// has learned for operators.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/flat_hash_map.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "client/recorder/output_plan.h"
#include "client/recorder/plan_key.h"
#include "common/callbacks.h"
#include "common/error.h"
#include "common/operators.h"
#include "common/python_lock.h"
#include "common/settings.h"
#include "common/tensor_meta.h"
#include "common/wire.h"

namespace remora {

constexpr auto kRemora = c10::DeviceType::PrivateUse1;
// libtorch's autograd engine starts a thread for each device that it can see, so the number is kept small.
constexpr int kSlots = 32;

inline c10::Device remora_device(int slot) { return {kRemora, static_cast<c10::DeviceIndex>(slot)}; }

class Machine;
struct StorageContext;

struct Batch {
  Machine* machine = nullptr;
  uint64_t sequence = 0;
  Writer bytes;
  std::vector<int64_t> born;  // triples id, bytes, device
  std::vector<int64_t> freed;
  int64_t operations = 0;  // recorded since the previous batch
  int64_t request = 0;
  at::Tensor destination;  // keeps the destination of a value alive until the batch is released
};

struct TensorView {
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  c10::IntArrayRef sizes;
  c10::IntArrayRef strides;
  int64_t offset = 0;
};

// The tensors that the current record has named so far.
struct NamedTensors {
  TensorView previous;                                    // for TensorBits::kSameMeta
  c10::SmallVector<const c10::TensorImpl*, 8> arguments;  // for Tag::kSameTensor
};

class Machine {
 public:
  Machine(int64_t handle, std::string name, int devices, size_t max_batch_bytes);

  static constexpr size_t kMaxPlans = 64 * 1024;

  const int64_t handle;
  const std::string name;
  const int devices;
  const uint64_t first_seed;      // seed of the default generators, until the program seeds them
  std::atomic<bool> cuda{false};  // whether the node computes on CUDA
  int first_slot = -1;

  // ---- for recording; all of these need the lock
  class Lock;
  // If an exception releases the lock between the begin and the end (or submission) of a record, the record is taken
  // back: all counts that the node keeps too return to their values before the record.
  void begin_record();  // drains frees; throws if the machine is closed or failed
  void write_tensor(const at::Tensor& t, NamedTensors& named);
  void write_storage(StorageContext& storage);  // id, and its birth if it is new
  void write_seed(int64_t generator, int device, uint64_t seed);
  void write_argument(const c10::IValue& value, NamedTensors& named);
  uint32_t wire_index(const OperatorInfo& info);  // defines the operator on first use
  void write_settings(const OperatorInfo& info, Settings settings);
  void write_bind(int64_t request,
                  const std::vector<at::Tensor>& outputs);  // binds an asked call's outputs
  void end_record(bool operation = true);                   // submits the batch if it is full
  // Closes the batch and submits it; releases the lock meanwhile.
  void submit_open_batch(int64_t request = 0, at::Tensor destination = {});

  Writer open;
  std::vector<int64_t> born;
  std::vector<int64_t> freed;
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
  std::string await(int64_t request);  // blocks; returns the answer, which is empty for values
  // Like await(), for an asked call whose outputs will be bound. If the wait fails, the node drops the outputs.
  std::string await_outputs(int64_t request);
  void answer(int64_t request, std::string bytes);
  int flush();
  void note_executed(uint64_t batch);  // the node has executed every batch up to this one
  int flush_when_idle(int64_t timeout_micros, int64_t linger_micros);
  void fail(const std::string& message);
  void close();
  void flush_for(uint64_t sequence);  // makes sure that the batch of this number is submitted
  // Throws if nothing can be recorded on the machine any more. The program gets the error.
  void check_usable(int64_t storage = 0);
  // The same for a thread that sends what the program has recorded. The program does not get the error.
  void check_carries();
  // Whether the program knows that the machine has failed.
  bool failure_told() const { return failure_told_.load(std::memory_order_acquire); }
  int64_t next_request(int64_t count = 1) { return requests_.fetch_add(count) + 1; }  // the first of `count` numbers
  // These throw if too many are alive; free_handle() makes room.
  int64_t next_generator() { return kSlots + generators_.next(*this, kMaxGenerators - kSlots, "generators"); }
  int64_t next_event() { return events_.next(*this, kMaxEvents, "events"); }
  bool on_cuda() const { return cuda.load(std::memory_order_relaxed); }
  int device_of_slot(int slot) const { return slot - first_slot; }
  bool closed() const { return state_.load(std::memory_order_acquire) == kClosed; }
  bool open_for_work() const { return state_.load(std::memory_order_acquire) == kOpen; }

  std::atomic<uint64_t> sequence{0};
  std::atomic<uint64_t> executed{0};
  // From this many bytes of live storages on, each batch is closed at once, so that the binding notices them.
  std::atomic<int64_t> notable_bytes{INT64_MAX};
  std::atomic<bool> trace{false};       // report a line of text for each operation
  std::atomic<bool> call_sites{false};  // report each operation before it is recorded
  int64_t calls = 0;                    // recorded calls; the node counts them too. Needs the lock
  std::atomic<int64_t> operations{0}, batches{0}, batch_bytes{0}, uploaded{0}, downloaded{0}, blocking{0}, misses{0},
      storages{0}, storage_bytes{0};

  friend void lock_machines();
  friend void unlock_machines();

 private:
  enum State { kOpen, kFailed, kClosed };
  [[noreturn]] void throw_unusable(int state, int64_t storage);
  std::atomic<bool> failure_told_{false};
  // The state that the node will have after the records so far.
  struct Progress {
    size_t bytes = 0;
    size_t born = 0;
    int64_t last_id = 0;
    uint32_t defined = 0;
    std::optional<Settings> settings;
  };
  // Numbers that are never reused, for things of which only a limited number may be alive.
  struct Handles {
    std::atomic<int64_t> last{0};
    std::atomic<int64_t> alive{0};
    int64_t next(const Machine& machine, uint64_t most, const char* what);
  };

  void wake_flusher();
  void await_idle_node(std::chrono::steady_clock::time_point deadline);
  void drain_frees();
  void start_batch();
  void finish_record();  // after this the record cannot be taken back
  void take_back_record();
  void note_birth(StorageContext& storage);  // called if the open batch is the first to use the storage

  const size_t max_batch_bytes_;
  size_t empty_size_ = 0;  // size of the open batch before its first record
  int64_t submitted_operations_ = 0;
  std::mutex mutex_;
  std::mutex submit_mutex_;  // locked while holding mutex_, held after mutex_ is released
  std::condition_variable wake_flusher_;
  bool flusher_waits_ = false;
  int patience_ = 1;      // how many linger times a batch may grow while the node is idle
  uint64_t flushed_ = 0;  // the batch that the flusher submitted last, and when
  std::chrono::steady_clock::time_point last_flush_;
  std::atomic<int64_t> executed_at_{0};  // when the last acknowledgement arrived
  std::mutex idle_mutex_;
  std::condition_variable idle_;          // the node has executed everything, or the machine is no longer open
  std::atomic<bool> awaits_idle_{false};  // the flusher waits for idle_
  std::atomic<int> state_{kOpen};
  std::string failure_;       // guarded by state_mutex_
  std::string node_address_;  // guarded by state_mutex_
  std::mutex state_mutex_;
  bool recording_ = false;
  Progress before_record_;
  std::vector<StorageContext*> record_births_;  // storages that the record uses first
  int64_t last_id_ = 0;                         // the batch encodes the next storage id as a difference to this one
  std::vector<int32_t> wire_indices_;           // by OperatorInfo::index; -1 = not defined yet
  uint32_t defined_ = 0;
  std::optional<Settings> settings_;  // the settings sent last

  std::mutex free_mutex_;
  std::vector<StorageContext*> frees_;
  std::vector<std::pair<Record, int64_t>> handle_frees_;
  std::atomic<bool> has_frees_{false};

  std::mutex answer_mutex_;
  std::map<int64_t, std::string> answers_;
  std::atomic<int64_t> requests_{0};
  Handles generators_;
  Handles events_;
};

class Machine::Lock {
 public:
  explicit Lock(Machine& machine) : machine_(machine), lock_(locked(machine.mutex_)) {}
  ~Lock() {
    if (machine_.recording_) machine_.take_back_record();
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Machine& machine_;
  std::unique_lock<std::mutex> lock_;
};

// Where batches go and answers come from: a binding's own functions, or session.cpp. `submit` and `await` throw on
// failure.
struct Callbacks {
  std::function<void(int64_t machine, Batch* batch)> submit;    // takes ownership of the batch
  std::function<void(int64_t machine, int64_t request)> await;  // returns when the answer has arrived
  std::function<void(int64_t machine)> lost;                    // the machine was closed or has failed; may be empty
  remora_trace_callback trace = nullptr;
  bool warns = false;  // libtorch's warnings on the program's threads reach the program
};
Callbacks& callbacks();

// ---- session.cpp
void install_sessions(remora_interrupt_callback interrupt, remora_trace_callback trace, remora_call_site_callback site);

Machine* open_machine(const char* name, int devices, size_t max_batch_bytes);  // nullptr if no slots are free
Machine* find_machine(int64_t handle);                                         // nullptr if unknown
// To be called around a fork: the locks that Machine::fail() and find_machine() take.
void lock_machines();
void unlock_machines();
// The open machine that a device belongs to. "remora" without an index is the thread's current device. Throws if there
// is none.
Machine& machine_of(c10::Device device, int* slot = nullptr);
Machine* open_machine_at(int slot);  // nullptr if none is open
Machine& last_machine_of(int slot);  // may be closed; throws if the slot never had a machine
int open_devices();
int slots_in_use();  // one more than the highest slot of an open device; closed machines leave gaps below
int current_slot();

}  // namespace remora
