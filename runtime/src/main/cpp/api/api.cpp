// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The functions of remora.h, implemented with the core's classes. No exception leaves a function, except into
// libtorch's own callers.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <limits>
#include <sstream>

#include "api/remora.h"
#include "client/device/event.h"
#include "client/device/registration.h"
#include "client/machine/batch.h"
#include "client/machine/callbacks.h"
#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "client/node_calls.h"
#include "client/profiler/kineto.h"
#include "client/profiler/profiling.h"
#include "client/program_line.h"
#include "client/python_line.h"
#include "client/read.h"
#include "client/recorder/call_log.h"
#include "client/session/session.h"
#include "client/session/stream.h"
#include "client/storage.h"
#include "client/transfer.h"
#include "common/error.h"
#include "common/python_lock.h"
#include "node/device.h"
#include "node/executor.h"
#include "node/freed_memory.h"
#include "node/held_transfers.h"
#include "node/node_calls.h"

#ifndef REMORA_SOURCE_HASH
#error "REMORA_SOURCE_HASH is set by CMakeLists.txt"
#endif

namespace {

thread_local std::string last_error;

template <class F>
auto guarded(F&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::exception& e) {
    last_error = remora::error_text(e);
  } catch (...) {
    last_error = "unknown error";
  }
  return static_cast<decltype(body())>(-1);
}

remora::Machine& machine_at(int64_t handle) {
  auto* machine = remora::find_machine(handle);
  TORCH_CHECK(machine != nullptr, "there is no machine ", handle);
  return *machine;
}

const at::Tensor& tensor_at(int64_t address) { return *reinterpret_cast<at::Tensor*>(address); }
remora::Batch* batch_at(int64_t address) { return reinterpret_cast<remora::Batch*>(address); }
remora::RemoteEvent* event_at(int64_t address) { return reinterpret_cast<remora::RemoteEvent*>(address); }
remora::Executor* executor_at(int64_t address) { return reinterpret_cast<remora::Executor*>(address); }
remora::CapturedSession* captured_at(int64_t address) { return reinterpret_cast<remora::CapturedSession*>(address); }
remora::ExecutionResult* result_at(int64_t address) { return reinterpret_cast<remora::ExecutionResult*>(address); }
remora::NodeAnswer* answer_at(int64_t address) { return reinterpret_cast<remora::NodeAnswer*>(address); }
remora::HeldTransfer* transfer_at(int64_t address) { return reinterpret_cast<remora::HeldTransfer*>(address); }
template <class T>
int64_t address_of(T* pointer) {
  return reinterpret_cast<int64_t>(pointer);
}

// Copies as much of the text as fits, NUL-terminated; returns the text's length.
int64_t copy_text(const std::string& source, char* text, int64_t capacity) {
  auto length = std::min<int64_t>(static_cast<int64_t>(source.size()), capacity - 1);
  if (length < 0) {
    return 0;
  }
  std::memcpy(text, source.data(), static_cast<size_t>(length));
  text[length] = 0;
  return length;
}

std::vector<std::string> split(const char* text) {
  std::vector<std::string> parts;
  std::istringstream in(text == nullptr ? "" : text);
  for (std::string part; std::getline(in, part, ',');) {
    if (!part.empty()) {
      parts.push_back(part);
    }
  }
  return parts;
}

}  // namespace

extern "C" {

const char* remora_built_for_torch(void) { return TORCH_VERSION; }
int32_t remora_wire_version(void) { return remora::kWireVersion; }
const char* remora_source_hash(void) { return REMORA_SOURCE_HASH; }
const char* remora_last_error(void) { return last_error.c_str(); }

void remora_set_compute_threads(int32_t threads) {
  at::set_num_threads(threads);
  // bytedeco's libtorch uses an OpenBLAS with its own threads.
  if (auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) {
    set(threads);
  }
}
int32_t remora_compute_threads(void) { return at::get_num_threads(); }
int32_t remora_device_count(const char* type) {
  return guarded([&]() -> int32_t {
    last_error.clear();
    auto count = remora::device_count(remora::accelerator_type(type));
    if (count == 0) {
      last_error = std::string("no library that this process has loaded reports a device of type ") + type;
    }
    return count;
  });
}
const char* remora_device_name(const char* type, int32_t device) {
  static thread_local std::string name;
  name.clear();
  guarded([&]() -> int32_t {
    name = remora::device_name({remora::accelerator_type(type), static_cast<c10::DeviceIndex>(device)});
    return 0;
  });
  return name.c_str();
}
int64_t remora_device_memory(const char* type, int32_t device) {
  return guarded([&]() -> int64_t {
    return remora::device_total_memory({remora::accelerator_type(type), static_cast<c10::DeviceIndex>(device)});
  });
}

int64_t remora_device_use(const char* device, int32_t figure) {
  return guarded([&]() -> int64_t {
    auto use = remora::device_use(c10::Device(device));
    switch (figure) {
      case REMORA_ALLOCATED_BYTES: return use.allocated;
      case REMORA_PEAK_ALLOCATED_BYTES: return use.peak_allocated;
      case REMORA_RESERVED_BYTES: return use.reserved;
      case REMORA_PEAK_RESERVED_BYTES: return use.peak_reserved;
      default: return -1;
    }
  });
}

int32_t remora_install(remora_submit_callback submit, remora_await_callback await, remora_trace_callback trace) {
  return guarded([&]() -> int32_t {
    // A binding's function writes its error to a buffer.
    auto check = [](auto function, int64_t machine, int64_t subject) {
      char error[4096] = "";
      if (function(machine, subject, error, sizeof error) != 0) {
        remora::throw_error(error[0] != 0 ? error : "RemoraException: the binding failed without a message");
      }
    };
    remora::Callbacks own;
    own.submit = [=](int64_t machine, remora::Batch* batch) { check(submit, machine, address_of(batch)); };
    own.await = [=](int64_t machine, int64_t request) { check(await, machine, request); };
    own.trace = trace;
    remora::callbacks() = own;
    remora::register_backend();
    return 0;
  });
}

void remora_set_notice_callback(remora_notice_callback notice) { remora::set_notice_callback(notice); }

int32_t remora_install_sessions(remora_interrupt_callback interrupted, remora_trace_callback trace,
                                remora_call_site_callback call_site) {
  return guarded([&]() -> int32_t {
    remora::install_sessions(interrupted, trace, call_site);
    remora::register_backend();
    return 0;
  });
}
void remora_set_python_exception(const char* name, int64_t type) { remora::set_python_exception(name, type); }
void remora_set_python_lock(int64_t check, int64_t save, int64_t restore) {
  remora::set_python_lock(check, save, restore);
}
int32_t remora_session_configure(int64_t machine, int64_t max_in_flight_bytes, int64_t max_unreceived_bytes,
                                 int64_t read_timeout_millis, int64_t ping_millis) {
  return guarded([&]() -> int32_t {
    remora::session_of(machine).configure(max_in_flight_bytes, max_unreceived_bytes, read_timeout_millis, ping_millis);
    return 0;
  });
}
int32_t remora_session_release(int64_t machine) {
  return guarded([&]() -> int32_t {
    remora::session_of(machine).set_held("");
    return 0;
  });
}
int64_t remora_session_next_restored(int64_t machine, int64_t* step, char* text, int64_t capacity) {
  return guarded([&]() -> int64_t {
    std::string message;
    if (!remora::session_of(machine).next_restored(step, &message)) return 0;
    return copy_text(message, text, capacity);
  });
}
int64_t remora_session_next_failure(int64_t machine, char* text, int64_t capacity) {
  return guarded([&]() -> int64_t { return copy_text(remora::session_of(machine).next_failure(), text, capacity); });
}
int64_t remora_session_unread_failure(int64_t machine, char* text, int64_t capacity) {
  return guarded([&]() -> int64_t { return copy_text(remora::session_of(machine).unread_failure(), text, capacity); });
}
int64_t remora_session_next_warning(int64_t machine, char* text, int64_t capacity) {
  return guarded([&]() -> int64_t { return copy_text(remora::session_of(machine).next_warning(), text, capacity); });
}
int64_t remora_session_read(int64_t machine, int64_t source, int64_t destination, int64_t* count) {
  auto first = remora_machine_read(machine, source, destination, count);
  if (first >= 0) remora::session_of(machine).read_meanwhile();
  return first;
}
int32_t remora_session_await(int64_t machine, int64_t first, int64_t count) {
  return guarded([&]() -> int32_t {
    auto* m = remora::find_machine(machine);
    TORCH_CHECK(m != nullptr, "MachineStateException: the machine was closed before the value was read");
    try {
      remora::await_read(*m, {first, count}, "a read");
    } catch (...) {
      remora::session_of(machine).forget(first, count);
      throw;
    }
    return 0;
  });
}
void remora_session_forget(int64_t machine, int64_t first, int64_t count) {
  guarded([&]() -> int32_t {
    if (remora::find_machine(machine) != nullptr) remora::session_of(machine).forget(first, count);
    return 0;
  });
}
int64_t remora_session_take(int64_t machine, int64_t timeout_micros) {
  return guarded([&]() -> int64_t { return address_of(remora::session_of(machine).take(timeout_micros)); });
}
int32_t remora_session_executed(int64_t machine, int64_t sequence, const uint8_t* report, int64_t bytes) {
  return guarded([&]() -> int32_t {
    remora::session_of(machine).executed(static_cast<uint64_t>(sequence), report, static_cast<size_t>(bytes));
    return 0;
  });
}
int32_t remora_session_value(int64_t machine, int64_t request, int64_t offset, const uint8_t* data, int64_t bytes) {
  return guarded([&]() -> int32_t {
    remora::session_of(machine).value(request, offset, data, bytes);
    return 0;
  });
}
int32_t remora_session_connect(int64_t machine, int32_t socket, const uint8_t* headers, int64_t header_bytes,
                               const uint8_t* hello, int64_t hello_bytes) {
  return guarded([&]() -> int32_t {
    auto& session = remora::session_of(machine);
    session.set_stream(std::make_shared<remora::Stream>(session, socket,
                                                        remora::ProtoBytes{headers, static_cast<size_t>(header_bytes)},
                                                        remora::ProtoBytes{hello, static_cast<size_t>(hello_bytes)}));
    return 0;
  });
}
int32_t remora_session_carry(int64_t machine) {
  return guarded([&]() -> int32_t {
    auto& session = remora::session_of(machine);
    auto stream = session.stream();
    TORCH_CHECK(stream != nullptr, "the session is not connected");
    auto how = stream->carry();
    if (how != remora::Carried::kWelcome && how != remora::Carried::kFailures) {
      last_error = stream->reason();
      session.set_stream(nullptr);
    }
    return static_cast<int32_t>(how);
  });
}
int64_t remora_session_welcome(int64_t machine, const uint8_t** data) {
  return guarded([&]() -> int64_t {
    auto stream = remora::session_of(machine).stream();
    TORCH_CHECK(stream != nullptr, "the session is not connected");
    *data = reinterpret_cast<const uint8_t*>(stream->welcome().data());
    return static_cast<int64_t>(stream->welcome().size());
  });
}
void remora_session_disconnect(int64_t machine) {
  guarded([&]() -> int32_t {
    if (auto stream = remora::session_of(machine).stream()) {
      stream->cancel();
    }
    return 0;
  });
}
int32_t remora_session_resume(int64_t machine, int64_t last_batch) {
  return guarded([&]() -> int32_t {
    remora::session_of(machine).resume(static_cast<uint64_t>(last_batch));
    return 0;
  });
}
int32_t remora_session_use_direct(int64_t machine, int64_t session) {
  return guarded([&]() -> int32_t {
    remora::session_of(machine).use_direct(static_cast<uint64_t>(session));
    return 0;
  });
}
int64_t remora_session_last_executed(int64_t machine) {
  return guarded([&]() -> int64_t { return static_cast<int64_t>(machine_at(machine).progress.executed()); });
}
int64_t remora_session_received(int64_t machine) {
  return guarded([&]() -> int64_t { return static_cast<int64_t>(remora::session_of(machine).received()); });
}
int64_t remora_session_outgoing(int64_t machine, int64_t timeout_micros, const uint8_t** data) {
  static thread_local std::string bytes;
  return guarded([&]() -> int64_t {
    remora::Message message;
    if (!remora::session_of(machine).await_message(timeout_micros, message)) {
      return 0;
    }
    bytes = message.frame();
    *data = reinterpret_cast<const uint8_t*>(bytes.data());
    return static_cast<int64_t>(bytes.size());
  });
}
int32_t remora_session_incoming(int64_t machine, const uint8_t* data, int64_t bytes) {
  return guarded(
      [&]() -> int32_t { return remora::session_of(machine).on_message({data, static_cast<size_t>(bytes)}) ? 1 : 0; });
}

int32_t remora_slot_count(void) { return remora::kSlots; }

int64_t remora_machine_open(const char* name, int32_t devices, int64_t max_batch_bytes) {
  return guarded([&]() -> int64_t {
    TORCH_CHECK(devices >= 1 && devices <= remora::kSlots, "a machine has 1 to ", remora::kSlots, " devices, not ",
                devices);
    TORCH_CHECK(max_batch_bytes >= 1024 && max_batch_bytes <= 8 * 1024 * 1024,
                "a batch's size limit must be between 1 KiB and 8 MiB, not ", max_batch_bytes, " bytes");
    auto* machine = remora::open_machine(name, devices, static_cast<size_t>(max_batch_bytes));
    TORCH_CHECK(machine != nullptr, "all ", remora::kSlots,
                " device slots of this process are in use; close a machine first");
    remora::profile_opened(*machine);
    return machine->handle;
  });
}
int32_t remora_machine_slot(int64_t machine, int32_t device) {
  return guarded([&]() -> int32_t {
    auto& m = machine_at(machine);
    TORCH_CHECK(device >= 0 && device < m.devices, "machine '", m.name, "' has devices 0 to ", m.devices - 1,
                ", there is no device ", device);
    return m.first_slot + device;
  });
}
int32_t remora_machine_flush(int64_t machine) {
  return guarded([&]() -> int32_t { return machine_at(machine).flush(); });
}
int32_t remora_machine_flush_when_idle(int64_t machine, int64_t timeout_micros, int64_t linger_micros) {
  return guarded([&]() -> int32_t { return machine_at(machine).flush_when_idle(timeout_micros, linger_micros); });
}
int64_t remora_machine_sequence(int64_t machine) {
  return guarded([&]() -> int64_t { return static_cast<int64_t>(machine_at(machine).progress.submitted()); });
}
void remora_machine_executed(int64_t machine, int64_t sequence) {
  if (auto* m = remora::find_machine(machine)) {
    m->progress.note_executed(static_cast<uint64_t>(sequence));
  }
}
int32_t remora_machine_answer(int64_t machine, int64_t request, const uint8_t* data, int64_t bytes) {
  return guarded([&]() -> int32_t {
    machine_at(machine).answer(request, std::string(reinterpret_cast<const char*>(data), static_cast<size_t>(bytes)));
    return 0;
  });
}
int64_t remora_machine_read(int64_t machine, int64_t source, int64_t destination, int64_t* count) {
  return guarded([&]() -> int64_t {
    const auto& from = tensor_at(source);
    const auto& to = tensor_at(destination);
    auto* context = remora::context_of(from);
    TORCH_CHECK(context != nullptr && context->machine->handle == machine, "the tensor is not on this machine");
    TORCH_CHECK(to.device().is_cpu() && to.is_contiguous() && to.scalar_type() == from.scalar_type() &&
                    to.sizes() == from.sizes(),
                "the destination must be a contiguous CPU tensor like the source");
    auto reads = remora::record_read(from, to);
    *count = reads.count;
    return reads.first;
  });
}
int32_t remora_set_read_piece(int64_t bytes) {
  return guarded([&]() -> int32_t {
    remora::set_read_piece(bytes);
    return 0;
  });
}
void remora_machine_fail(int64_t machine, const char* message) {
  if (auto* m = remora::find_machine(machine)) {
    m->fail(message);
  }
}
int32_t remora_machine_failure_told(int64_t machine) {
  auto* m = remora::find_machine(machine);
  return m != nullptr && m->failure_told() ? 1 : 0;
}
void remora_machine_set_trace(int64_t machine, int32_t text, int32_t call_sites) {
  if (auto* m = remora::find_machine(machine)) {
    m->trace.store(text != 0);
    m->call_sites.store(call_sites != 0);
  }
}
void remora_machine_set_notable_bytes(int64_t machine, int64_t bytes) {
  if (auto* m = remora::find_machine(machine)) {
    m->notable_bytes.store(bytes);
  }
}
void remora_machine_set_cuda(int64_t machine, int32_t on) {
  if (auto* m = remora::find_machine(machine)) {
    m->cuda.store(on != 0);
  }
}
int32_t remora_machine_set_node_address(int64_t machine, const char* address) {
  return guarded([&]() -> int32_t {
    machine_at(machine).set_node_address(address);
    return 0;
  });
}
int32_t remora_machine_told(int64_t machine, int64_t failure) {
  return guarded([&]() -> int32_t {
    machine_at(machine).told(static_cast<uint64_t>(failure));
    return 0;
  });
}
int32_t remora_machine_mark(int64_t machine, int64_t step) {
  return guarded([&]() -> int32_t {
    machine_at(machine).mark(step);
    return 0;
  });
}
int64_t remora_machine_restored(int64_t machine, int64_t epoch, const char* message) {
  return guarded([&]() -> int64_t {
    return static_cast<int64_t>(machine_at(machine).restored(static_cast<uint64_t>(epoch), message));
  });
}
void remora_declare_fixed_shapes(const char* name) { remora::declare_fixed_shapes(name); }
int32_t remora_machine_synchronize(int64_t machine) {
  return guarded([&]() -> int32_t {
    auto& m = machine_at(machine);
    for (int device = 0; device < m.devices; device++) {
      m.question(remora::Question::kSynchronize, {static_cast<uint64_t>(device)});
    }
    return 0;
  });
}
int32_t remora_machine_memory(int64_t machine, int32_t device, int64_t* values) {
  return guarded([&]() -> int32_t {
    auto figures = machine_at(machine).memory(device);
    std::copy(figures.begin(), figures.end(), values);
    return 0;
  });
}
int32_t remora_machine_empty_cache(int64_t machine, int32_t device) {
  return guarded([&]() -> int32_t {
    machine_at(machine).question(remora::Question::kEmptyCache, {static_cast<uint64_t>(device)});
    return 0;
  });
}
int32_t remora_machine_reset_peak_memory(int64_t machine, int32_t device) {
  return guarded([&]() -> int32_t {
    machine_at(machine).question(remora::Question::kResetPeakMemory, {static_cast<uint64_t>(device)});
    return 0;
  });
}
int64_t remora_default_generator(int32_t slot) {
  return guarded([&]() -> int64_t {
    auto device = c10::Device(remora::kRemora, static_cast<c10::DeviceIndex>(slot));
    return address_of(new at::Generator(at::globalContext().defaultGenerator(device)));
  });
}
void remora_generator_release(int64_t generator) { delete reinterpret_cast<at::Generator*>(generator); }
int64_t remora_run(int64_t machine, int32_t device, int64_t timeout_millis, const char* name, const uint8_t* payload,
                   int64_t bytes, const int64_t* tensors, int64_t count) {
  return guarded([&]() -> int64_t {
    return remora::record_run(machine_at(machine), remora::Callee::kWorker, device, timeout_millis, name, payload,
                              static_cast<size_t>(bytes), tensors, static_cast<size_t>(count));
  });
}
int64_t remora_call_node(int64_t machine, int32_t device, int64_t timeout_millis, const char* name,
                         const uint8_t* payload, int64_t bytes, const int64_t* tensors, int64_t count) {
  return guarded([&]() -> int64_t {
    return remora::record_run(machine_at(machine), remora::Callee::kNode, device, timeout_millis, name, payload,
                              static_cast<size_t>(bytes), tensors, static_cast<size_t>(count));
  });
}
int64_t remora_run_await(int64_t machine, int64_t request, const uint8_t** answer) {
  static thread_local std::string bytes;
  return guarded([&]() -> int64_t {
    bytes = remora::await_run(machine_at(machine), request);
    *answer = reinterpret_cast<const uint8_t*>(bytes.data());
    return static_cast<int64_t>(bytes.size());
  });
}
int32_t remora_run_bind(int64_t machine, int64_t request, const int64_t* tensors, int64_t count) {
  return guarded([&]() -> int32_t {
    std::vector<at::Tensor> list;
    for (int64_t i = 0; i < count; i++) list.push_back(tensor_at(tensors[i]));
    remora::bind_run(machine_at(machine), request, list);
    return 0;
  });
}
int64_t remora_run_longest(int64_t machine) {
  return guarded([&]() -> int64_t { return remora::longest_run(machine_at(machine).handle); });
}
int64_t remora_node_answer(int64_t machine, int64_t request) {
  return guarded([&]() -> int64_t {
    return address_of(new remora::NodeAnswer(remora::await_node(machine_at(machine), request)));
  });
}
int64_t remora_node_answer_payload(int64_t answer) { return address_of(answer_at(answer)->payload.data()); }
int64_t remora_node_answer_bytes(int64_t answer) { return static_cast<int64_t>(answer_at(answer)->payload.size()); }
int64_t remora_node_answer_tensors(int64_t answer) { return static_cast<int64_t>(answer_at(answer)->tensors.size()); }
int64_t remora_node_answer_tensor(int64_t answer, int64_t index) {
  return address_of(&answer_at(answer)->tensors[static_cast<size_t>(index)]);
}
void remora_node_answer_release(int64_t answer) { delete answer_at(answer); }
int64_t remora_event_record(int64_t machine, int32_t device) {
  return guarded([&]() -> int64_t {
    auto& m = machine_at(machine);
    auto event = std::make_unique<remora::RemoteEvent>(m);
    remora::record_event(*event, device);
    return address_of(event.release());
  });
}
int32_t remora_event_query(int64_t event) {
  return guarded([&]() -> int32_t { return remora::event_happened(*event_at(event)) ? 1 : 0; });
}
int32_t remora_event_synchronize(int64_t event) {
  return guarded([&]() -> int32_t {
    event_at(event)->machine->question(remora::Question::kSynchronizeEvent,
                                       {static_cast<uint64_t>(event_at(event)->id)});
    return 0;
  });
}
double remora_event_elapsed(int64_t first, int64_t second) {
  double result = std::numeric_limits<double>::quiet_NaN();
  guarded([&]() -> int32_t {
    result = remora::event_elapsed(*event_at(first), *event_at(second));
    return 0;
  });
  return result;
}
void remora_event_destroy(int64_t event) { delete event_at(event); }
void remora_machine_close(int64_t machine) {
  if (auto* m = remora::find_machine(machine)) {
    m->close();
  }
}
int64_t remora_machine_statistic(int64_t machine, int32_t statistic) {
  auto* m = remora::find_machine(machine);
  if (m == nullptr) {
    return -1;
  }
  switch (statistic) {
    case REMORA_OPERATIONS: return m->operations;
    case REMORA_BATCHES: return m->batches;
    case REMORA_BATCH_BYTES: return m->batch_bytes;
    case REMORA_UPLOADED_BYTES: return m->uploaded;
    case REMORA_DOWNLOADED_BYTES: return m->downloaded;
    case REMORA_STORAGE_BYTES: return m->storage_bytes;
    case REMORA_BLOCKING_READS: return m->waits.for_answers();
    case REMORA_PLAN_MISSES: return m->misses;
    case REMORA_STORAGES: return m->storages;
    case REMORA_VALUE_WAITS: return m->waits.of(remora::Waits::kValue);
    case REMORA_SHAPE_WAITS: return m->waits.of(remora::Waits::kShape);
    case REMORA_METADATA_WAITS: return m->waits.of(remora::Waits::kMetadata);
    case REMORA_ROOM_WAITS: return m->waits.of(remora::Waits::kRoom);
    case REMORA_PLANS: return m->kept_plans;
    case REMORA_FROM_VIEWS: return m->of_origin(remora::Origin::kView);
    case REMORA_FROM_RULES: return m->of_origin(remora::Origin::kRule);
    case REMORA_FROM_LIBTORCH: return m->of_origin(remora::Origin::kLibtorch);
    case REMORA_FROM_NODE: return m->of_origin(remora::Origin::kNode);
    case REMORA_FROM_VALUES: return m->of_origin(remora::Origin::kValues);
    case REMORA_VALUE_WAIT_NANOS: return m->waits.nanos_of(remora::Waits::kValue);
    case REMORA_SHAPE_WAIT_NANOS: return m->waits.nanos_of(remora::Waits::kShape);
    case REMORA_METADATA_WAIT_NANOS: return m->waits.nanos_of(remora::Waits::kMetadata);
    case REMORA_ROOM_WAIT_NANOS: return m->waits.nanos_of(remora::Waits::kRoom);
    case REMORA_QUESTION_WAIT_NANOS: return m->waits.nanos_of(remora::Waits::kOther);
    case REMORA_PAUSED_WAIT_NANOS: return m->waits.nanos_of(remora::Waits::kPaused);
    case REMORA_RECONNECTING_WAIT_NANOS: return m->waits.nanos_of(remora::Waits::kReconnecting);
    case REMORA_RECOVERING_WAIT_NANOS: return m->waits.nanos_of(remora::Waits::kRecovering);
    default: return -1;
  }
}

const char* remora_machine_metadata_waits(int64_t machine) {
  thread_local std::string lines;
  auto* m = remora::find_machine(machine);
  lines = m == nullptr ? "" : m->waits.operators();
  return lines.c_str();
}
void remora_machine_waited_for_room(int64_t machine, int64_t nanos) {
  if (auto* m = remora::find_machine(machine)) {
    m->waits.waited_for_room(nanos);
  }
}
const char* remora_machine_waits(int64_t machine) {
  thread_local std::string lines;
  auto* m = remora::find_machine(machine);
  lines = m == nullptr ? "" : m->waits.places();
  return lines.c_str();
}
void remora_machine_hinder(int64_t machine, int32_t state) {
  if (auto* m = remora::find_machine(machine)) {
    m->waits.hinder(state);
  }
}
const char* remora_machine_timeline_start(int64_t machine, const char* file) {
  static thread_local std::string name;
  auto done = guarded([&]() -> int32_t {
    name = machine_at(machine).start_timeline(file);
    return 0;
  });
  return done == 0 ? name.c_str() : nullptr;
}
int32_t remora_machine_timeline_stop(int64_t machine, int64_t wait_millis) {
  return guarded([&]() -> int32_t {
    machine_at(machine).stop_timeline(std::chrono::milliseconds(wait_millis));
    return 0;
  });
}
void remora_machine_times(int64_t machine, int64_t sequence, const uint8_t* data, int64_t bytes) {
  if (auto* m = remora::find_machine(machine)) {
    m->timeline.executed(static_cast<uint64_t>(sequence),
                         {reinterpret_cast<const char*>(data), static_cast<size_t>(bytes)});
  }
}
void remora_machine_passage(int64_t machine, int64_t sequence, const uint8_t* data, int64_t bytes) {
  if (auto* m = remora::find_machine(machine)) {
    m->timeline.passed(static_cast<uint64_t>(sequence),
                       {reinterpret_cast<const char*>(data), static_cast<size_t>(bytes)});
  }
}
int32_t remora_profiler_register(void) { return remora::register_with_kineto() ? 1 : 0; }
const char* remora_profiler_settle(int64_t wait_millis) {
  static thread_local std::string text;
  text.clear();
  guarded([&]() -> int32_t {
    text = remora::settle_profiles(std::chrono::milliseconds(wait_millis));
    return 0;
  });
  return text.c_str();
}
const char* remora_waits_for(void) {
  static thread_local std::string text;
  text = remora::Waiting::of_this_thread();
  return text.c_str();
}
void remora_set_line_callback(remora_line_callback line) { remora::set_line_callback(line); }
int32_t remora_set_python_functions(const int64_t* functions, int64_t count, const char* not_the_programs) {
  return guarded([&]() -> int32_t {
    remora::set_python_functions(functions, count, not_the_programs);
    return 0;
  });
}

int64_t remora_batch_sequence(int64_t batch) { return static_cast<int64_t>(batch_at(batch)->sequence); }
int64_t remora_batch_data(int64_t batch) { return address_of(batch_at(batch)->bytes.data()); }
int64_t remora_batch_bytes(int64_t batch) { return static_cast<int64_t>(batch_at(batch)->bytes.size()); }
int64_t remora_batch_born_count(int64_t batch) { return static_cast<int64_t>(batch_at(batch)->born.size() / 3); }
int64_t remora_batch_born(int64_t batch) { return address_of(batch_at(batch)->born.data()); }
int64_t remora_batch_freed_count(int64_t batch) { return static_cast<int64_t>(batch_at(batch)->freed.size()); }
int64_t remora_batch_freed(int64_t batch) { return address_of(batch_at(batch)->freed.data()); }
int64_t remora_batch_request(int64_t batch) { return batch_at(batch)->request; }
int64_t remora_batch_destination(int64_t batch) {
  const auto& t = batch_at(batch)->destination;
  return t.defined() ? address_of(t.mutable_data_ptr()) : 0;
}
int64_t remora_batch_destination_bytes(int64_t batch) {
  const auto& t = batch_at(batch)->destination;
  return t.defined() ? static_cast<int64_t>(t.nbytes()) : 0;
}
void remora_batch_release(int64_t batch) { delete batch_at(batch); }

int64_t remora_storage_id(int64_t tensor) {
  return guarded([&]() -> int64_t {
    const auto& t = tensor_at(tensor);
    TORCH_CHECK(t.device().type() == remora::kRemora, "the tensor is on ", t.device(), ", not on a remora device");
    return remora::storage_of(t).id;
  });
}
int64_t remora_metadata_hash(int64_t tensor) { return static_cast<int64_t>(remora::metadata_hash(tensor_at(tensor))); }
int32_t remora_open_devices(void) { return remora::open_devices(); }
int32_t remora_current_device(void) { return remora::current_slot(); }

int64_t remora_executor_create(const char* devices, const char* denied) {
  return guarded([&]() -> int64_t {
    std::vector<c10::Device> list;
    for (const auto& name : split(devices)) list.push_back(remora::open_device(name));
    TORCH_CHECK(!list.empty() && list.size() <= remora::kMaxDevices, "a node has 1 to ", remora::kMaxDevices,
                " devices");
    auto names = split(denied);
    return address_of(new remora::Executor(std::move(list), {names.begin(), names.end()}));
  });
}
void remora_executor_destroy(int64_t executor) {
  delete executor_at(executor);
  remora::return_freed_memory();
}
int64_t remora_executor_execute(int64_t executor, const uint8_t* data, int64_t bytes) {
  return guarded([&]() -> int64_t {
    return address_of(executor_at(executor)->execute(data, static_cast<size_t>(bytes)).release());
  });
}
void remora_set_run_callback(remora_run_callback callback) {
  remora::set_run_callback(remora::Callee::kWorker, callback);
}
void remora_set_node_callback(remora_run_callback callback) {
  remora::set_run_callback(remora::Callee::kNode, callback);
}
int32_t remora_run_answer(const uint8_t* data, int64_t bytes) {
  return guarded([&]() -> int32_t {
    remora::run_answer(data, static_cast<size_t>(bytes));
    return 0;
  });
}
int32_t remora_run_write(int64_t tensor, const char* path, int64_t offset, int64_t bytes) {
  return guarded([&]() -> int32_t {
    remora::run_write(static_cast<size_t>(tensor), path, static_cast<uint64_t>(offset), static_cast<uint64_t>(bytes));
    return 0;
  });
}
int64_t remora_executor_storage_count(int64_t executor) { return executor_at(executor)->storage_count(); }
int64_t remora_executor_storage_bytes(int64_t executor) { return executor_at(executor)->storage_bytes(); }
static void summarize(const remora::Executor::Snapshot& snapshot, int64_t* summary) {
  summary[0] = static_cast<int64_t>(snapshot.bytes);
  summary[1] = static_cast<int64_t>(snapshot.checksum);
  summary[2] = static_cast<int64_t>(snapshot.storages);
  summary[3] = static_cast<int64_t>(snapshot.sequence);
}
int32_t remora_executor_save(int64_t executor, int64_t sequence, const char* path, int64_t* summary) {
  return guarded([&]() -> int32_t {
    summarize(executor_at(executor)->save(path, static_cast<uint64_t>(sequence)), summary);
    return 0;
  });
}
int64_t remora_executor_capture(int64_t executor, int64_t sequence) {
  return guarded([&]() -> int64_t {
    return address_of(executor_at(executor)->capture(static_cast<uint64_t>(sequence)).release());
  });
}
int64_t remora_captured_storages(int64_t captured) { return static_cast<int64_t>(captured_at(captured)->storages()); }
int32_t remora_captured_next(int64_t captured, int64_t* part) {
  remora::CapturedSession::Part next{};
  if (!captured_at(captured)->next(next)) return 0;
  part[0] = address_of(next.data);
  part[1] = static_cast<int64_t>(next.bytes);
  part[2] = next.values ? 1 : 0;
  return 1;
}
void remora_captured_release(int64_t captured) { delete captured_at(captured); }
int32_t remora_executor_load(int64_t executor, const char* path, int64_t* summary) {
  return guarded([&]() -> int32_t {
    summarize(executor_at(executor)->load(path), summary);
    return 0;
  });
}
int32_t remora_executor_load_pieces(int64_t executor, const char* files, const int64_t* pieces, int64_t count,
                                    int64_t* summary) {
  return guarded([&]() -> int32_t {
    std::vector<std::string> paths;
    std::istringstream lines(files);
    for (std::string line; std::getline(lines, line);) paths.push_back(line);
    std::vector<remora::StatePiece> list;
    list.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; i++) {
      const auto* piece = pieces + 3 * i;
      list.push_back(
          {static_cast<uint64_t>(piece[0]), static_cast<uint64_t>(piece[1]), static_cast<uint64_t>(piece[2])});
    }
    summarize(executor_at(executor)->load(paths, list), summary);
    return 0;
  });
}

int32_t remora_result_has_mark(int64_t result) { return result_at(result)->mark ? 1 : 0; }
int64_t remora_result_mark(int64_t result) { return result_at(result)->mark.value_or(0); }
int64_t remora_result_report(int64_t result) { return address_of(result_at(result)->report.data()); }
int64_t remora_result_report_bytes(int64_t result) { return static_cast<int64_t>(result_at(result)->report.size()); }
int64_t remora_result_value_count(int64_t result) { return static_cast<int64_t>(result_at(result)->values.size()); }
int64_t remora_result_value_request(int64_t result, int64_t index) { return result_at(result)->values[index].request; }
int64_t remora_result_value(int64_t result, int64_t index) {
  return address_of(result_at(result)->values[index].bytes.const_data_ptr());
}
int64_t remora_result_value_bytes(int64_t result, int64_t index) {
  return static_cast<int64_t>(result_at(result)->values[index].bytes.nbytes());
}
void remora_result_release(int64_t result) { delete result_at(result); }

int32_t remora_transfer_configure(remora_fetch_callback fetch, int64_t max_tickets, int64_t max_bytes,
                                  int64_t lifetime_millis) {
  return guarded([&]() -> int32_t {
    TORCH_CHECK(max_tickets >= 0 && max_bytes >= 0 && lifetime_millis >= 0, "limits must not be negative");
    remora::configure_transfers(max_tickets, max_bytes, lifetime_millis, fetch);
    return 0;
  });
}
int64_t remora_transfer_take(const char* ticket) {
  return guarded([&]() -> int64_t { return address_of(remora::take_transfer(ticket)); });
}
int64_t remora_transfer_data(int64_t transfer) { return address_of(transfer_at(transfer)->bytes.const_data_ptr()); }
int64_t remora_transfer_bytes(int64_t transfer) { return static_cast<int64_t>(transfer_at(transfer)->bytes.nbytes()); }
void remora_transfer_release(int64_t transfer) { delete transfer_at(transfer); }
int32_t remora_transfer_expire(void) {
  return guarded([]() -> int32_t { return remora::expire_transfers(); });
}

}  // extern "C"
