// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The C interface of Remora's native core. The JVM binds it with JavaCPP, Python with ctypes.
//
// Addresses are passed as int64_t, so that no binding needs a pointer type. Unless stated otherwise, every function may
// be called from any thread. Functions that return int32_t return 0 on success and a negative number on failure;
// remora_last_error() then returns the calling thread's message.
#ifndef REMORA_H
#define REMORA_H

#include <stdint.h>

#include "common/callbacks.h"

#if defined(__GNUC__)
#define REMORA_API __attribute__((visibility("default")))
#else
#define REMORA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

// ---------------------------------------------------------------- the library

// The version of libtorch the core was built against, e.g. "2.10.0".
REMORA_API const char* remora_built_for_torch(void);
// The version of the wire format of batches and reports.
REMORA_API int32_t remora_wire_version(void);
// SHA-256 over the core's sources, as hexadecimal digits; CMakeLists.txt defines which sources it covers.
REMORA_API const char* remora_source_hash(void);
// The message of this thread's last failed call; "" if there is none.
REMORA_API const char* remora_last_error(void);

// Sets the number of threads with which libtorch computes inside one operator, in this process.
REMORA_API void remora_set_compute_threads(int32_t threads);
REMORA_API int32_t remora_compute_threads(void);
// The number of devices of a type ("cuda" or another accelerator of libtorch's) that libtorch reports; 0 without any,
// with the reason in remora_last_error(); -1 if libtorch has no such accelerator.
REMORA_API int32_t remora_device_count(const char* type);
// The name of such a device as its driver reports it, or else libtorch's, and its memory in bytes (-1 if unknown).
REMORA_API const char* remora_device_name(const char* type, int32_t device);
REMORA_API int64_t remora_device_memory(const char* type, int32_t device);
// What this process uses of an accelerator's memory ("cuda:0"), in bytes; -1 if libtorch's allocator does not report it,
// as before libtorch 2.9, or has not been used yet.
enum remora_device_use_figure {
  REMORA_ALLOCATED_BYTES = 0,
  REMORA_PEAK_ALLOCATED_BYTES = 1,
  REMORA_RESERVED_BYTES = 2,
  REMORA_PEAK_RESERVED_BYTES = 3
};
REMORA_API int64_t remora_device_use(const char* device, int32_t figure);

// ---------------------------------------------------------------- recorder

// Registers the PyTorch backend "remora" with the process's libtorch. A second call only replaces the callbacks.
REMORA_API int32_t remora_install(remora_submit_callback submit, remora_await_callback await,
                                  remora_trace_callback trace);

REMORA_API void remora_set_notice_callback(remora_notice_callback notice);

// Installs sessions, for bindings for which callbacks are expensive; call it instead of remora_install(). Batches wait
// in the core until they are sent, and the core reads reports and values and waits for them. trace and call_site may be
// null.
REMORA_API int32_t remora_install_sessions(remora_interrupt_callback interrupted, remora_trace_callback trace,
                                           remora_call_site_callback call_site);
// From now on, Python raises errors whose message starts with "<name>: " as this class (its address, id(cls)).
REMORA_API void remora_set_python_exception(const char* name, int64_t type);
// Passes the addresses of PyGILState_Check, PyEval_SaveThread and PyEval_RestoreThread. From now on a thread that holds
// Python's lock releases it while it waits in the core, so that the threads that send and receive can run.
REMORA_API void remora_set_python_lock(int64_t check, int64_t save, int64_t restore);
// Sets the limits of a session; the defaults are 64 MiB, 16 MiB, 10 minutes and 10 s. Recording blocks while more than
// max_in_flight_bytes of batches are not executed yet. The session acknowledges what it received, at the latest after a
// quarter of max_unreceived_bytes, the gateway's buffer for it. A wait fails if the node finishes nothing for the read
// timeout. A connection of remora_session_connect() that is silent is pinged after each ping interval; it counts as
// broken if it is still silent after three intervals.
REMORA_API int32_t remora_session_configure(int64_t machine, int64_t max_in_flight_bytes, int64_t max_unreceived_bytes,
                                            int64_t read_timeout_millis, int64_t ping_millis);
// The machine was resumed: waits no longer fail because the machine is paused.
REMORA_API int32_t remora_session_release(int64_t machine);
// Takes note of the next restoration of an earlier state that the gateway has reported: see remora_machine_restored().
// *step receives its step. Returns the length of the text "<exception>: <message>", 0 if there is none. After
// REMORA_CARRIED_FAILURES, for the thread that carries.
REMORA_API int64_t remora_session_next_restored(int64_t machine, int64_t* step, char* text, int64_t capacity);
// The text of the next failed operation for the log, which was not returned before; its length, 0 if there is none.
REMORA_API int64_t remora_session_next_failure(int64_t machine, char* text, int64_t capacity);
// Like remora_machine_read, for a session of the core. Each request is to be awaited, or forgotten.
REMORA_API int64_t remora_session_read(int64_t machine, int64_t source, int64_t destination, int64_t* count);
// Waits for the values of such requests. Fails with the error of the operation that should have made the value.
REMORA_API int32_t remora_session_await(int64_t machine, int64_t first, int64_t count);
REMORA_API void remora_session_forget(int64_t machine, int64_t first, int64_t count);
// The text of the first failed operation whose result nothing has read; forgets all such failures. Its length, 0 if
// there is none.
REMORA_API int64_t remora_session_unread_failure(int64_t machine, char* text, int64_t capacity);
// The next warning of libtorch on the node, "<category>: <text>", that no waiting function of libtorch's Python binding
// has passed on; its length, 0 if there is none.
REMORA_API int64_t remora_session_next_warning(int64_t machine, char* text, int64_t capacity);

// For a machine whose batches this process executes itself:
// The next batch, 0 if there is none in time, or a negative number once the machine is closed or has failed. The core
// keeps the batch until it is executed: the caller must not release it.
REMORA_API int64_t remora_session_take(int64_t machine, int64_t timeout_micros);
// Reports that this batch and all before it were executed. Values of its requests must be passed before.
REMORA_API int32_t remora_session_executed(int64_t machine, int64_t sequence, const uint8_t* report, int64_t bytes);
// Passes bytes of a value that is too large for its batch's report.
REMORA_API int32_t remora_session_value(int64_t machine, int64_t request, int64_t offset, const uint8_t* data,
                                        int64_t bytes);

// For a machine behind a gateway (gateway.proto), over a connection of the core's own, without TLS:
// Takes ownership of a connected TCP socket, and opens a stream with this header block (HPACK) and first message (a
// ClientFrame with a Hello). Sends nothing else until remora_session_resume().
REMORA_API int32_t remora_session_connect(int64_t machine, int32_t socket, const uint8_t* headers, int64_t header_bytes,
                                          const uint8_t* hello, int64_t hello_bytes);
// Sends and receives until there is something to tell the caller; for one thread. Returns a remora_carried. From
// REMORA_CARRIED_ENDED on, the connection is gone and remora_last_error() has the reason.
REMORA_API int32_t remora_session_carry(int64_t machine);
enum remora_carried {
  REMORA_CARRIED_FAILURES = 0,     // operations have failed: see remora_session_next_failure()
  REMORA_CARRIED_WELCOME = 1,      // see remora_session_welcome()
  REMORA_CARRIED_ENDED = 2,        // the gateway has ended the stream regularly
  REMORA_CARRIED_BROKEN = 3,       // another connection may resume the session
  REMORA_CARRIED_UNEXPLAINED = 4,  // the gateway has ended the stream with a status that the core does not read
  REMORA_CARRIED_FAILED = 5        // the machine has failed
};
// The ServerFrame with the Welcome; returns its size. It stays valid until the connection's end.
REMORA_API int64_t remora_session_welcome(int64_t machine, const uint8_t** data);
// Ends the connection: remora_session_carry() returns.
REMORA_API void remora_session_disconnect(int64_t machine);

// Over any connection:
// The gateway has the batches up to this one; the session sends those after it (again).
REMORA_API int32_t remora_session_resume(int64_t machine, int64_t last_batch);
// The gateway may arrange a connection of the core's own to the node, for the session of this number: batches, reports
// and values go over that when it is there. Only with remora_session_connect().
REMORA_API int32_t remora_session_use_direct(int64_t machine, int64_t session);
// The last batch whose report has arrived.
REMORA_API int64_t remora_session_last_executed(int64_t machine);
// Index of the last ServerFrame received.
REMORA_API int64_t remora_session_received(int64_t machine);

// For a machine behind a gateway, over the caller's own connection:
// The next ClientFrame to send, valid until the thread's next call; returns its size, 0 if there is none in time, or a
// negative number once the machine is closed and has said goodbye, or has failed.
REMORA_API int64_t remora_session_outgoing(int64_t machine, int64_t timeout_micros, const uint8_t** data);
// Handles a ServerFrame. Returns 1 if it is a Welcome, which the caller must handle.
REMORA_API int32_t remora_session_incoming(int64_t machine, const uint8_t* data, int64_t bytes);

// Number of device slots, the limit of devices open at one time.
REMORA_API int32_t remora_slot_count(void);

// Opens a machine with `devices` devices and returns its handle (> 0), or a negative number.
REMORA_API int64_t remora_machine_open(const char* name, int32_t devices, int64_t max_batch_bytes);
// The index of the PyTorch device ("remora:<slot>") of the machine's device number `device`.
REMORA_API int32_t remora_machine_slot(int64_t machine, int32_t device);
// Closes the open batch, if it contains anything, and submits it.
REMORA_API int32_t remora_machine_flush(int64_t machine);
// Waits up to timeout_micros until the open batch contains something and the node has executed everything before it.
// Then lets the batch grow for linger_micros more (up to 16 times that while the node is faster than the program) and
// submits it. While the node has not answered n batches, the open batch grows for (4 + n) * linger_micros. Returns 1 if it submitted the batch, 0 if not, and a negative number once the machine is closed or has
// failed. For the machine's only flusher thread.
REMORA_API int32_t remora_machine_flush_when_idle(int64_t machine, int64_t timeout_micros, int64_t linger_micros);
// Sequence number of the last closed batch; 0 before the first.
REMORA_API int64_t remora_machine_sequence(int64_t machine);
// Reports that the node has executed every batch up to sequence.
REMORA_API void remora_machine_executed(int64_t machine, int64_t sequence);
// Passes the node's answer to a request made through remora_await_callback.
REMORA_API int32_t remora_machine_answer(int64_t machine, int64_t request, const uint8_t* data, int64_t bytes);
// Records the download of tensor `source` (address of an at::Tensor on this machine) into `destination` (address of a
// contiguous CPU at::Tensor of the same dtype and shape) and submits it, in pieces. Each piece is a request of its own;
// their numbers are consecutive. Returns the first request's number; *count receives the number of requests.
REMORA_API int64_t remora_machine_read(int64_t machine, int64_t source, int64_t destination, int64_t* count);
// Sets the size of such pieces for all machines, 64 MiB by default. For tests.
REMORA_API int32_t remora_set_read_piece(int64_t bytes);
// The program's step is complete: the node may make a checkpoint of exactly what was recorded so far. Submits it.
REMORA_API int32_t remora_machine_mark(int64_t machine, int64_t step);
// The node has restored an earlier state, for the time of this number, 1, 2, …: what was recorded so far is void. The
// machine's next use throws an error with this message, unless a wait throws it before. Returns the number of the first
// batch that counts; the requests of those before it get no answer.
REMORA_API int64_t remora_machine_restored(int64_t machine, int64_t epoch, const char* message);
// From now on, recording on the machine throws an error with this message.
REMORA_API void remora_machine_fail(int64_t machine, const char* message);
// 1 if the machine has failed and a call's error has told the program so, else 0.
REMORA_API int32_t remora_machine_failure_told(int64_t machine);
// Whether remora_trace_callback gets a text for each operation, and whether it is called for call sites.
REMORA_API void remora_machine_set_trace(int64_t machine, int32_t text, int32_t call_sites);
// From this many bytes of live storages on, each batch is closed as soon as it contains something, so that
// remora_submit_callback is called.
REMORA_API void remora_machine_set_notable_bytes(int64_t machine, int64_t bytes);
// Whether the node computes on CUDA, which decides libtorch's choice of some operators.
REMORA_API void remora_machine_set_cuda(int64_t machine, int32_t on);
// Where other machines' nodes reach this machine's node, as "host:port"; tensors then go directly from node to node.
// With "" (the default) they go through this process.
REMORA_API int32_t remora_machine_set_node_address(int64_t machine, const char* address);
// Waits until everything recorded has been executed, on the node's devices too.
REMORA_API int32_t remora_machine_synchronize(int64_t machine);
// The program has thrown all failures up to this number.
REMORA_API int32_t remora_machine_told(int64_t machine, int64_t failure);
// Declares that the output sizes of an operator ("library::name") depend on no tensor's values.
REMORA_API void remora_declare_fixed_shapes(const char* name);
// The memory of one of the machine's devices, in bytes: allocated, peak allocated, reserved, peak reserved, total (0 if
// unknown). `values` has room for five numbers.
REMORA_API int32_t remora_machine_memory(int64_t machine, int32_t device, int64_t* values);
// Returns memory that the node's allocator keeps for reuse to the device.
REMORA_API int32_t remora_machine_empty_cache(int64_t machine, int32_t device);
REMORA_API int32_t remora_machine_reset_peak_memory(int64_t machine, int32_t device);
// The address of a new at::Generator that refers to the default generator of a device slot, or a negative number if no
// machine is open there. The caller releases it.
REMORA_API int64_t remora_default_generator(int32_t slot);
REMORA_API void remora_generator_release(int64_t generator);
// Runs a Python function on the node, in order with the operations. `payload` goes unchanged to the node's worker, with
// `tensors` (addresses of at::Tensor on this machine). Returns the request's number.
REMORA_API int64_t remora_run(int64_t machine, int32_t device, int64_t timeout_millis, const char* name,
                              const uint8_t* payload, int64_t bytes, const int64_t* tensors, int64_t count);
// Waits for the function to finish. Returns the size of the worker's answer (see node_call.h), which stays valid at
// *answer until the thread's next call.
REMORA_API int64_t remora_run_await(int64_t machine, int64_t request, const uint8_t** answer);
// Binds the answer's new storages to `tensors`, in order. There must be as many tensors, and nothing may have used them
// yet.
REMORA_API int32_t remora_run_bind(int64_t machine, int64_t request, const int64_t* tensors, int64_t count);
// The longest time limit of the unfinished functions, in milliseconds; 0 if there are none.
REMORA_API int64_t remora_run_longest(int64_t machine);
// Like remora_run(), for calls that the executing process itself answers: `payload` is a NodeCall of models.proto.
REMORA_API int64_t remora_call_node(int64_t machine, int32_t device, int64_t timeout_millis, const char* name,
                                    const uint8_t* payload, int64_t bytes, const int64_t* tensors, int64_t count);
// Waits for the answer; for bindings that use at::Tensor, instead of remora_run_await() and remora_run_bind(). Returns
// a handle, from which the payload and the new tensors (addresses of at::Tensor) can be read until it is released.
REMORA_API int64_t remora_node_answer(int64_t machine, int64_t request);
REMORA_API int64_t remora_node_answer_payload(int64_t answer);
REMORA_API int64_t remora_node_answer_bytes(int64_t answer);
REMORA_API int64_t remora_node_answer_tensors(int64_t answer);
REMORA_API int64_t remora_node_answer_tensor(int64_t answer, int64_t index);
REMORA_API void remora_node_answer_release(int64_t answer);
// Events: places in the operation stream. Returns a handle, or a negative number.
REMORA_API int64_t remora_event_record(int64_t machine, int32_t device);
REMORA_API int32_t remora_event_query(int64_t event);  // 1 when it has happened
REMORA_API int32_t remora_event_synchronize(int64_t event);
REMORA_API double remora_event_elapsed(int64_t first, int64_t second);  // milliseconds on the node; NaN on failure
REMORA_API void remora_event_destroy(int64_t event);
// Releases the device slots. Tensors that still live on the machine become stale.
REMORA_API void remora_machine_close(int64_t machine);
// Counters since the machine was opened; see remora_statistic.
REMORA_API int64_t remora_machine_statistic(int64_t machine, int32_t statistic);
enum remora_statistic {
  REMORA_OPERATIONS = 0,        // operations recorded
  REMORA_BATCHES = 1,           // batches closed
  REMORA_BATCH_BYTES = 2,       // bytes of closed batches, including uploads
  REMORA_UPLOADED_BYTES = 3,    // tensor bytes uploaded
  REMORA_DOWNLOADED_BYTES = 4,  // tensor bytes read
  REMORA_BLOCKING_READS = 5,    // times recording waited for a value or for output metadata
  REMORA_PLAN_MISSES = 6,       // calls whose output metadata was not cached
  REMORA_STORAGES = 7,          // live storages of the program
  REMORA_STORAGE_BYTES = 8,     // the bytes of the live storages
  // Waits by cause. Blocking reads are all of them but those for room, and the answers to questions.
  REMORA_VALUE_WAITS = 9,      // for a tensor's elements
  REMORA_SHAPE_WAITS = 10,     // for a result's shape that depends on values
  REMORA_METADATA_WAITS = 11,  // for a result's metadata that only the node could tell
  REMORA_ROOM_WAITS = 12,      // for room to send more
  REMORA_PLANS = 13,           // kept predictions of outputs
  // Calls whose outputs' metadata came from: the memory of arguments, Remora's rules, libtorch's own code, the node
  // (asked once for such a call), the node (asked each time, because values decide).
  REMORA_FROM_VIEWS = 14,
  REMORA_FROM_RULES = 15,
  REMORA_FROM_LIBTORCH = 16,
  REMORA_FROM_NODE = 17,
  REMORA_FROM_VALUES = 18,
  // How long the program has waited, by cause, in nanoseconds. The time of the last three does not count for the others.
  REMORA_VALUE_WAIT_NANOS = 19,
  REMORA_SHAPE_WAIT_NANOS = 20,
  REMORA_METADATA_WAIT_NANOS = 21,
  REMORA_ROOM_WAIT_NANOS = 22,
  REMORA_QUESTION_WAIT_NANOS = 23,      // for the answers to questions, and for calls of the node
  REMORA_PAUSED_WAIT_NANOS = 24,        // while the machine was pausing, paused or resuming
  REMORA_RECONNECTING_WAIT_NANOS = 25,  // while it had no connection to its node
  REMORA_RECOVERING_WAIT_NANOS = 26     // while it recovered from the loss of its node
};
// The operators that metadata waits were for: a line "name count" for each. Valid until the thread's next call.
REMORA_API const char* remora_machine_metadata_waits(int64_t machine);
// To be called by a binding whose own submit function has waited for room.
REMORA_API void remora_machine_waited_for_room(int64_t machine, int64_t nanos);
// The program's waits by cause, subject and line of the program, the longest first. A text line for each has, between
// tabs: the cause ("value", "shape", "metadata", "room", "question", "paused", "reconnecting", "recovering"), how often,
// nanoseconds, the subject ("item()", an operator, …), the program's line, which may be empty. Short waits are looked at
// by sample, so the counts and times of lines are estimates; their sums are exact. Valid until the thread's next call.
REMORA_API const char* remora_machine_waits(int64_t machine);
// The machine has entered a state in which its node cannot answer, or left it.
REMORA_API void remora_machine_hinder(int64_t machine, int32_t state);
enum remora_hindrance { REMORA_UNHINDERED = 0, REMORA_PAUSED = 1, REMORA_RECONNECTING = 2, REMORA_RECOVERING = 3 };
// Writes a timeline of the machine to a file from now on, in Chrome's trace event format. If the file exists, a number is
// added to its name. Returns the file's name, valid until the thread's next call; null on failure. There may be one at a
// time for a machine. A machine that is closed completes its own.
REMORA_API const char* remora_machine_timeline_start(int64_t machine, const char* file);
// Ends it. Sends what is recorded and waits until the node has executed it, for so long at most; with 0 it does neither.
REMORA_API int32_t remora_machine_timeline_stop(int64_t machine, int64_t wait_millis);
// For a binding that reads reports itself: the content of kTimes in the report of a batch.
REMORA_API void remora_machine_times(int64_t machine, int64_t sequence, const uint8_t* data, int64_t bytes);
// The same for kPassage. To be called first.
REMORA_API void remora_machine_passage(int64_t machine, int64_t sequence, const uint8_t* data, int64_t bytes);
// Gives torch.profiler the machines' times, through Kineto. To be called once. Returns 1; 0 if the core cannot, because the
// headers of its version of torch lack Kineto's.
REMORA_API int32_t remora_profiler_register(void);
// Before a profile ends: sends what is recorded on its machines and waits until the nodes have told of it, for so long at
// most. Returns a text line for each machine of which times will be missing. Valid until the thread's next call.
REMORA_API const char* remora_profiler_settle(int64_t wait_millis);
// What the calling thread waits for: the cause as in remora_machine_waits(), a tab, the subject; "" if it does not wait.
// Valid until the thread's next call.
REMORA_API const char* remora_waits_for(void);
// How the core finds the program's line at which a thread waits or records: by a callback, or by the addresses of Python's
// functions, see client/python_line.h.
REMORA_API void remora_set_line_callback(remora_line_callback line);
REMORA_API int32_t remora_set_python_functions(const int64_t* functions, int64_t count, const char* not_the_programs);

// A batch's parts. The addresses stay valid until remora_batch_release().
REMORA_API int64_t remora_batch_sequence(int64_t batch);
REMORA_API int64_t remora_batch_data(int64_t batch);
REMORA_API int64_t remora_batch_bytes(int64_t batch);
// Storages first used in this batch and live at its end: triples (id, bytes, device).
REMORA_API int64_t remora_batch_born_count(int64_t batch);
REMORA_API int64_t remora_batch_born(int64_t batch);
// Storages of earlier batches that this batch frees: ids.
REMORA_API int64_t remora_batch_freed_count(int64_t batch);
REMORA_API int64_t remora_batch_freed(int64_t batch);
// The request that this batch ends with, or 0; the destination of its value (0 and 0 bytes if the answer is metadata).
REMORA_API int64_t remora_batch_request(int64_t batch);
REMORA_API int64_t remora_batch_destination(int64_t batch);
REMORA_API int64_t remora_batch_destination_bytes(int64_t batch);
REMORA_API void remora_batch_release(int64_t batch);

// ---------------------------------------------------------------- tensors (addresses of at::Tensor)

// The storage id of a tensor on a remora device, or -1 with a message.
REMORA_API int64_t remora_storage_id(int64_t tensor);
// FNV-1a over shape, strides, dtype, storage offset and storage id. For logs and debugging.
REMORA_API int64_t remora_metadata_hash(int64_t tensor);
// Number of device slots in use, and the calling thread's current device slot.
REMORA_API int32_t remora_open_devices(void);
REMORA_API int32_t remora_current_device(void);

// ---------------------------------------------------------------- executor

// devices: "cpu", "cuda:<n>" or another accelerator's, separated by commas; a device may be named several times. denied: operators to refuse,
// by name ("aten::from_file"), overload ("aten::add.out") or namespace ("c10d::*"), separated by commas. Returns a
// handle, or a negative number. An executor may be used by only one thread at a time.
REMORA_API int64_t remora_executor_create(const char* devices, const char* denied);
REMORA_API void remora_executor_destroy(int64_t executor);
// Runs a batch. Returns a result handle (> 0), or a negative number if the bytes are not a well-formed batch. A failed
// operation does not fail the batch: the report contains the failure.
REMORA_API int64_t remora_executor_execute(int64_t executor, const uint8_t* data, int64_t bytes);
// Sets the callback for all executors of the process. Without it, Python functions fail.
REMORA_API void remora_set_run_callback(remora_run_callback callback);
// Takes over the memory that the worker's answer shares; the worker may release it afterwards. Also for an answer of
// the node.
REMORA_API int32_t remora_run_answer(const uint8_t* data, int64_t bytes);
// Like remora_set_run_callback(), for calls that the node itself answers: remora_call_node(). Without it, such calls
// fail.
REMORA_API void remora_set_node_callback(remora_run_callback callback);
// Only within that callback: writes the values of the call's tensor number `tensor` to an existing file, `bytes` bytes
// from `offset` on, in order.
REMORA_API int32_t remora_run_write(int64_t tensor, const char* path, int64_t offset, int64_t bytes);
REMORA_API int64_t remora_executor_storage_count(int64_t executor);
REMORA_API int64_t remora_executor_storage_bytes(int64_t executor);
// Writes the whole session of the executor to a new file: storages with their values, generators, operators, failures.
// `sequence` is the last batch that it has executed. `summary` has room for four numbers: the file's bytes, its
// CRC-32C, the number of storages, the sequence. Afterwards the file is either complete and on disk, or does not exist.
REMORA_API int32_t remora_executor_save(int64_t executor, int64_t sequence, const char* path, int64_t* summary);
// Copies the whole session, to be taken later while the executor works. Returns a handle, or -1.
REMORA_API int64_t remora_executor_capture(int64_t executor, int64_t sequence);
REMORA_API int64_t remora_captured_storages(int64_t captured);
// Gives the next part of the copy, on any thread, and frees the part before; returns 0 when there is none. `part` has
// room for three numbers: address, bytes, and 1 if these are the values of one storage.
REMORA_API int32_t remora_captured_next(int64_t captured, int64_t* part);
REMORA_API void remora_captured_release(int64_t captured);
// Loads a saved session into an executor that has executed nothing. The file need not be trusted: if it is not a saved
// session, the call fails with a message, and the executor must not be used any more.
REMORA_API int32_t remora_executor_load(int64_t executor, const char* path, int64_t* summary);
// Likewise, from the parts of a copy, which lie one behind the other in `count` pieces of files. `files` has the paths,
// separated by line ends; a piece is three numbers: the file's place in this list, offset, bytes. Only the stream is
// checked: the caller has verified the pieces. The summary has the bytes of all pieces, and no checksum.
REMORA_API int32_t remora_executor_load_pieces(int64_t executor, const char* files, const int64_t* pieces,
                                               int64_t count, int64_t* summary);

// A result's report, and the values that are too large for it.
// 1 if the batch ends where a step of the program is complete, else 0; and the step.
REMORA_API int32_t remora_result_has_mark(int64_t result);
REMORA_API int64_t remora_result_mark(int64_t result);
REMORA_API int64_t remora_result_report(int64_t result);
REMORA_API int64_t remora_result_report_bytes(int64_t result);
REMORA_API int64_t remora_result_value_count(int64_t result);
REMORA_API int64_t remora_result_value_request(int64_t result, int64_t index);
REMORA_API int64_t remora_result_value(int64_t result, int64_t index);
REMORA_API int64_t remora_result_value_bytes(int64_t result, int64_t index);
REMORA_API void remora_result_release(int64_t result);

// ---------------------------------------------------------------- tensors that go from node to node

// Sets how to fetch tensors of other nodes, and the limits for tensors held for them: the number of tickets, their
// bytes, and the lifetime of each. For the whole process; without it, nothing is fetched.
REMORA_API int32_t remora_transfer_configure(remora_fetch_callback fetch, int64_t max_tickets, int64_t max_bytes,
                                             int64_t lifetime_millis);
// Takes the bytes held under a ticket; the ticket then no longer exists. Returns a handle, or 0 if there is no such
// ticket (any more).
REMORA_API int64_t remora_transfer_take(const char* ticket);
REMORA_API int64_t remora_transfer_data(int64_t transfer);
REMORA_API int64_t remora_transfer_bytes(int64_t transfer);
REMORA_API void remora_transfer_release(int64_t transfer);
// Frees the tickets that have expired; returns their number. The caller must call this regularly.
REMORA_API int32_t remora_transfer_expire(void);

#ifdef __cplusplus
}
#endif
#endif
