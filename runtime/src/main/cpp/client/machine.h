// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The recording side of one machine: its device slots, its storages, its open batch, and what it has learned of
// operators' output metadata.
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

#include "client/output_plan.h"
#include "common/callbacks.h"
#include "common/error.h"
#include "common/operators.h"
#include "common/python_lock.h"
#include "common/settings.h"
#include "common/tensor_meta.h"
#include "common/wire.h"

namespace remora {

constexpr auto kRemora = c10::DeviceType::PrivateUse1;
// libtorch's autograd engine starts a thread for each device it can see, so the number is kept small.
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
  int64_t operations = 0;  // recorded since the batch before
  int64_t request = 0;
  at::Tensor destination;  // keeps the memory a value is read into alive until the batch is released
};

struct TensorView {
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  c10::IntArrayRef sizes;
  c10::IntArrayRef strides;
  int64_t offset = 0;
};

// The tensors that a record has named so far.
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
  const uint64_t first_seed;      // of the default generators, until the program seeds them
  std::atomic<bool> cuda{false};  // whether the node computes on CUDA
  int first_slot = -1;

  // ---- for recording: all of these need the lock
  class Lock;
  // A record that is begun and neither ended nor submitted when the lock is let go, because something was thrown, is
  // taken back: everything that the node counts along is as if it had not been begun.
  void begin_record();  // drains frees; throws when closed or failed
  void write_tensor(const at::Tensor& t, NamedTensors& named);
  void write_storage(StorageContext& storage);  // id, and its birth if it is new
  void write_seed(int64_t generator, int device, uint64_t seed);
  void write_argument(const c10::IValue& value, NamedTensors& named);
  uint32_t wire_index(const OperatorInfo& info);  // defines the operator on first use
  void write_settings(const OperatorInfo& info, Settings settings);
  void write_bind(int64_t request, const std::vector<at::Tensor>& outputs);  // names an asked call's outputs
  void end_record(bool operation = true);                                    // submits the batch when it is full
  // Closes the batch and hands it over; the lock is let go meanwhile.
  void submit_open_batch(int64_t request = 0, at::Tensor destination = {});

  Writer open;
  std::vector<int64_t> born;
  std::vector<int64_t> freed;
  std::unordered_map<PlanKey, std::unique_ptr<Plan>, PlanKeyHash> plans;

  // ---- thread-safe
  void free_storage(StorageContext* context);
  void free_handle(Record record, int64_t handle);  // of a generator or an event
  void told(uint64_t failure);                      // the program has thrown all failures up to that number
  // Asks the node and waits for its answer.
  std::string question(Question question, std::initializer_list<uint64_t> arguments);
  std::string question(Question question, const std::function<void()>& write_arguments);  // called with the lock
  // Of a device's memory, in bytes: allocated, peak allocated, reserved, peak reserved, total (0: not known).
  std::array<int64_t, 5> memory(int device);
  // "host:port" where other nodes reach this machine's; "" when it is not known.
  std::string node_address();
  void set_node_address(std::string address);
  std::string await(int64_t request);  // blocks; the answer, empty for values
  // As await(), for a call whose outputs get names then: if the wait fails the node forgets them.
  std::string await_outputs(int64_t request);
  void answer(int64_t request, std::string bytes);
  int flush();
  void note_executed(uint64_t batch);  // the node has executed every batch up to this one
  int flush_when_idle(int64_t timeout_micros, int64_t linger_micros);
  void fail(const std::string& message);
  void close();
  void flush_for(uint64_t sequence);  // makes sure the batch of that number is submitted
  // Throws when nothing can be recorded on the machine any more. `tells`: the error reaches the program.
  void check_usable(int64_t storage = 0, bool tells = true);
  // Whether the program knows that the machine has failed.
  bool failure_told() const { return failure_told_.load(std::memory_order_acquire); }
  int64_t next_request(int64_t count = 1) { return requests_.fetch_add(count) + 1; }  // the first of so many
  // Throw when too many live; free_handle() makes room.
  int64_t next_generator() { return kSlots + generators_.next(*this, kMaxGenerators - kSlots, "generators"); }
  int64_t next_event() { return events_.next(*this, kMaxEvents, "events"); }
  bool on_cuda() const { return cuda.load(std::memory_order_relaxed); }
  int device_of_slot(int slot) const { return slot - first_slot; }
  bool closed() const { return state_.load(std::memory_order_acquire) == kClosed; }
  bool open_for_work() const { return state_.load(std::memory_order_acquire) == kOpen; }

  std::atomic<uint64_t> sequence{0};
  std::atomic<uint64_t> executed{0};
  // With so many bytes of storages alive a batch is closed at once: a binding wants to hear of it.
  std::atomic<int64_t> notable_bytes{INT64_MAX};
  std::atomic<bool> trace{false};       // a line of text for each operation
  std::atomic<bool> call_sites{false};  // tell of each operation before it is recorded
  int64_t calls = 0;                    // recorded calls; the node counts them, too. Needs the lock
  std::atomic<int64_t> operations{0}, batches{0}, batch_bytes{0}, uploaded{0}, downloaded{0}, blocking{0}, misses{0},
      storages{0}, storage_bytes{0};

  friend void lock_machines();
  friend void unlock_machines();

 private:
  enum State { kOpen, kFailed, kClosed };
  std::atomic<bool> failure_told_{false};
  // What the node will know of the session by the records so far.
  struct Progress {
    size_t bytes = 0;
    size_t born = 0;
    int64_t last_id = 0;
    uint32_t defined = 0;
    std::optional<Settings> settings;
  };
  // Numbers that are never used twice, of things of which a limited number may live.
  struct Handles {
    std::atomic<int64_t> last{0};
    std::atomic<int64_t> alive{0};
    int64_t next(const Machine& machine, uint64_t most, const char* what);
  };

  void wake_flusher();
  void await_idle_node(std::chrono::steady_clock::time_point deadline);
  void drain_frees();
  void start_batch();
  void finish_record();  // from here on it cannot be taken back
  void take_back_record();
  void note_birth(StorageContext& storage);  // the open batch is the first to use the storage

  const size_t max_batch_bytes_;
  size_t empty_size_ = 0;  // of the open batch when nothing has been recorded
  int64_t submitted_operations_ = 0;
  std::mutex mutex_;
  std::mutex submit_mutex_;  // taken while holding mutex_, held after mutex_ was let go
  std::condition_variable wake_flusher_;
  bool flusher_waits_ = false;
  int patience_ = 1;      // how many times the linger time a batch may grow while the node is idle
  uint64_t flushed_ = 0;  // the batch the flusher submitted last, and when
  std::chrono::steady_clock::time_point last_flush_;
  std::atomic<int64_t> executed_at_{0};  // when the last acknowledgement came
  std::mutex idle_mutex_;
  std::condition_variable idle_;          // the node has executed everything, or the machine is not open any more
  std::atomic<bool> awaits_idle_{false};  // the flusher waits for it
  std::atomic<int> state_{kOpen};
  std::string failure_;       // guarded by state_mutex_
  std::string node_address_;  // so is this
  std::mutex state_mutex_;
  bool recording_ = false;
  Progress before_record_;
  std::vector<StorageContext*> record_births_;  // storages that the record is the first to use
  int64_t last_id_ = 0;                         // the storage id that the next one in the batch is a difference to
  std::vector<int32_t> wire_indices_;           // by OperatorInfo::index; -1 = not defined yet
  uint32_t defined_ = 0;
  std::optional<Settings> settings_;  // the last that were sent

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

// Where batches go and answers come from: a binding's own functions, or session.cpp. Both throw what has gone wrong.
struct Callbacks {
  std::function<void(int64_t machine, Batch* batch)> submit;    // takes the batch over
  std::function<void(int64_t machine, int64_t request)> await;  // returns when the answer is there
  std::function<void(int64_t machine)> lost;                    // the machine was closed or has failed; may be empty
  remora_trace_callback trace = nullptr;
  bool warns = false;  // what libtorch warns of on the program's threads reaches the program
};
Callbacks& callbacks();

// ---- session.cpp
void install_sessions(remora_interrupt_callback interrupt, remora_trace_callback trace, remora_call_site_callback site);

Machine* open_machine(const char* name, int devices, size_t max_batch_bytes);  // nullptr when no slots are free
Machine* find_machine(int64_t handle);                                         // nullptr when unknown
// Around a fork: the locks that Machine::fail() and find_machine() take.
void lock_machines();
void unlock_machines();
// The open machine a device belongs to; "remora" without an index is the thread's current device. Throws.
Machine& machine_of(c10::Device device, int* slot = nullptr);
Machine* open_machine_at(int slot);  // nullptr where none is open
Machine& last_machine_of(int slot);  // the one that is closed too; throws where there was none
int open_devices();
int slots_in_use();  // one more than the highest of an open device: below it are gaps where machines were closed
int current_slot();

void record_call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, std::vector<c10::IValue>* stack);
std::string describe_with_id(const at::Tensor& t);
uint64_t metadata_hash(const at::Tensor& t);

}  // namespace remora
