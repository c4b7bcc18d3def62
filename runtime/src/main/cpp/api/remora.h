// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The C interface of Remora's native core. The JVM binds it with JavaCPP, Python with ctypes.
//
// Addresses travel as int64_t, so that no binding needs to know a pointer type. Unless said otherwise every
// function may be called from any thread. Functions returning int32_t answer 0 on success and a negative
// number on failure; remora_last_error() then has the calling thread's message.
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
// SHA-256 over the core's sources, as hexadecimal digits; see CMakeLists.txt for what it covers.
REMORA_API const char* remora_source_hash(void);
// Message of the last failed call of this thread; "" if none.
REMORA_API const char* remora_last_error(void);

// Threads libtorch computes with inside one operator, in this process.
REMORA_API void remora_set_compute_threads(int32_t threads);
REMORA_API int32_t remora_compute_threads(void);
// Number of CUDA devices libtorch reports; 0 without CUDA, and remora_last_error() has the reason.
REMORA_API int32_t remora_cuda_device_count(void);
// Name of a CUDA device as its driver reports it, "" when there is none; its memory in bytes, or -1.
REMORA_API const char* remora_cuda_device_name(int32_t device);
REMORA_API int64_t remora_cuda_device_memory(int32_t device);

// ---------------------------------------------------------------- recorder

// Registers the PyTorch backend "remora" with the process's libtorch. Once per process; a second call replaces
// the callbacks.
REMORA_API int32_t remora_install(remora_submit_callback submit, remora_await_callback await,
                                  remora_trace_callback trace);

REMORA_API void remora_set_notice_callback(remora_notice_callback notice);

// Sessions for bindings that cannot be called back cheaply. Batches wait in the core until they are sent, reports and
// values are read there, and whoever waits for a value waits there. Instead of remora_install(). trace and call_site may
// be null.
REMORA_API int32_t remora_install_sessions(remora_interrupt_callback interrupted, remora_trace_callback trace,
                                           remora_call_site_callback call_site);
// From now on errors whose message starts with "<name>: " are raised in Python as this class (its address, id(cls)).
REMORA_API void remora_set_python_exception(const char* name, int64_t type);
// Addresses of PyGILState_Check, PyEval_SaveThread and PyEval_RestoreThread: from now on a thread that holds Python's lock
// lets it go while it waits in the core, so that the threads that send and receive can run.
REMORA_API void remora_set_python_lock(int64_t check, int64_t save, int64_t restore);
// Limits of a session; defaults 64 MiB, 16 MiB and 10 minutes. Recording blocks while more bytes of batches are not yet
// executed; the gateway is told at the latest when a quarter of what it keeps for the session has arrived; a wait fails
// when the node has finished nothing for the timeout. A connection of remora_session_connect() on which nothing comes is
// asked for a sign of life after each ping interval (default 10 s), and is broken when none has come after three.
REMORA_API int32_t remora_session_configure(int64_t machine, int64_t max_in_flight_bytes, int64_t max_unreceived_bytes,
                                            int64_t read_timeout_millis, int64_t ping_millis);
// The machine was resumed: waits no longer fail because the gateway holds it.
REMORA_API int32_t remora_session_release(int64_t machine);
// Text of the next failed operation that nobody has asked for yet, for the log; its length, 0 when there is none.
REMORA_API int64_t remora_session_next_failure(int64_t machine, char* text, int64_t capacity);
// Text of the first failed operation whose result nobody has read; forgets them all. Its length, 0 when there is none.
REMORA_API int64_t remora_session_unread_failure(int64_t machine, char* text, int64_t capacity);
// The next warning of libtorch on the node, "<category>: <text>", that no function of libtorch's own Python binding has
// given to the program while it waited; its length, 0 when there is none.
REMORA_API int64_t remora_session_next_warning(int64_t machine, char* text, int64_t capacity);

// For a machine whose batches this process executes itself:
// The next batch, 0 when there is none in time, or a negative number once the machine is closed or failed. The core
// keeps it until it was executed: it must not be released.
REMORA_API int64_t remora_session_take(int64_t machine, int64_t timeout_micros);
// A batch was executed, and every one before it. Values of its requests have come before.
REMORA_API int32_t remora_session_executed(int64_t machine, int64_t sequence, const uint8_t* report, int64_t bytes);
// Bytes of a value that is too large for its batch's report.
REMORA_API int32_t remora_session_value(int64_t machine, int64_t request, int64_t offset, const uint8_t* data,
                                        int64_t bytes);

// For a machine behind a gateway (gateway.proto), over a connection of the core's own, without TLS:
// Takes a connected TCP socket over, and opens a stream with this header block (HPACK) and first message (a ClientFrame
// with a Hello). Nothing else is sent until remora_session_resume().
REMORA_API int32_t remora_session_connect(int64_t machine, int32_t socket, const uint8_t* headers, int64_t header_bytes,
                                          const uint8_t* hello, int64_t hello_bytes);
// Sends and receives until something is to be told; for one thread. Answers a remora_carried; from
// REMORA_CARRIED_ENDED on the connection is gone and remora_last_error() has the reason.
REMORA_API int32_t remora_session_carry(int64_t machine);
enum remora_carried {
  REMORA_CARRIED_FAILURES = 0,     // operations have failed: see remora_session_next_failure()
  REMORA_CARRIED_WELCOME = 1,      // see remora_session_welcome()
  REMORA_CARRIED_ENDED = 2,        // the gateway has ended the stream in good order
  REMORA_CARRIED_BROKEN = 3,       // another connection may take the session up again
  REMORA_CARRIED_UNEXPLAINED = 4,  // the gateway has ended the stream with a status, which is not read here
  REMORA_CARRIED_FAILED = 5        // the machine has failed
};
// The ServerFrame with the Welcome; its size. It stays until the connection's end.
REMORA_API int64_t remora_session_welcome(int64_t machine, const uint8_t** data);
// Ends the connection: remora_session_carry() returns.
REMORA_API void remora_session_disconnect(int64_t machine);

// Over whatever connection:
// The gateway has the batches up to this one: those after it are sent (again).
REMORA_API int32_t remora_session_resume(int64_t machine, int64_t last_batch);
// Index of the last ServerFrame that has come.
REMORA_API int64_t remora_session_received(int64_t machine);

// For a machine behind a gateway, over a connection of the caller's:
// The next ClientFrame to send, which stays until the thread's next call; its size, 0 when there is none in time, or a
// negative number once the machine is closed and has said goodbye, or has failed.
REMORA_API int64_t remora_session_outgoing(int64_t machine, int64_t timeout_micros, const uint8_t** data);
// A ServerFrame has come. Answers 1 when it is a Welcome, which is left to the caller.
REMORA_API int32_t remora_session_incoming(int64_t machine, const uint8_t* data, int64_t bytes);

// Number of device slots: no more devices than this can be open at one time.
REMORA_API int32_t remora_slot_count(void);

// Opens a machine with `devices` devices and answers its handle (> 0), or a negative number.
REMORA_API int64_t remora_machine_open(const char* name, int32_t devices, int64_t max_batch_bytes);
// The index of the PyTorch device ("remora:<slot>") of the machine's device number `device`.
REMORA_API int32_t remora_machine_slot(int64_t machine, int32_t device);
// Closes the open batch, if it holds anything, and submits it.
REMORA_API int32_t remora_machine_flush(int64_t machine);
// Waits up to timeout_micros for the open batch to hold something while the node has executed all before it, lets
// it grow for linger_micros more (up to 16 times that while the node is the faster one), and submits it. Answers 1 if it submitted, 0 if not, < 0 once the machine
// is closed or failed. For the one flusher thread of the machine.
REMORA_API int32_t remora_machine_flush_when_idle(int64_t machine, int64_t timeout_micros, int64_t linger_micros);
// Sequence number of the last closed batch; 0 before the first.
REMORA_API int64_t remora_machine_sequence(int64_t machine);
// Tells that the node has executed every batch up to sequence.
REMORA_API void remora_machine_executed(int64_t machine, int64_t sequence);
// Hands over the node's answer to a request made through remora_await_callback.
REMORA_API int32_t remora_machine_answer(int64_t machine, int64_t request, const uint8_t* data, int64_t bytes);
// Records the download of tensor `source` (address of an at::Tensor on this machine) into `destination` (address of
// a contiguous CPU at::Tensor of the same dtype and shape) and submits it, in pieces that are requests of their own with
// consecutive numbers. Answers the first one's number; *count says how many there are.
REMORA_API int64_t remora_machine_read(int64_t machine, int64_t source, int64_t destination, int64_t* count);
// A piece's size from now on, for all machines: 64 MiB unless this says otherwise. For tests.
REMORA_API int32_t remora_set_read_piece(int64_t bytes);
// From now on recording on the machine throws an error with this message.
REMORA_API void remora_machine_fail(int64_t machine, const char* message);
// 1 when the machine has failed and an error of a call has told the program so, else 0.
REMORA_API int32_t remora_machine_failure_told(int64_t machine);
// Whether remora_trace_callback gets a text for each operation, and whether it is called at all for the sake of call
// sites.
REMORA_API void remora_machine_set_trace(int64_t machine, int32_t text, int32_t call_sites);
// From so many bytes of storages alive in the program on, each batch is closed as soon as it holds something, so that
// remora_submit_callback is called.
REMORA_API void remora_machine_set_notable_bytes(int64_t machine, int64_t bytes);
// Whether the node computes on CUDA: libtorch chooses some operators by it.
REMORA_API void remora_machine_set_cuda(int64_t machine, int32_t on);
// Where other machines' nodes reach this machine's node, as "host:port": tensors go straight from node to node then. ""
// (the default): they take the way through this process.
REMORA_API int32_t remora_machine_set_node_address(int64_t machine, const char* address);
// Waits until all that was recorded has been executed, on the node's devices, too.
REMORA_API int32_t remora_machine_synchronize(int64_t machine);
// The program has thrown all failures up to that number.
REMORA_API int32_t remora_machine_told(int64_t machine, int64_t failure);
// Says that the output sizes of an operator ("library::name") depend on no tensor's values.
REMORA_API void remora_declare_fixed_shapes(const char* name);
// Memory of one of the machine's devices, in bytes: allocated, peak allocated, reserved, peak reserved, total (0 where
// not known). `values` has room for five.
REMORA_API int32_t remora_machine_memory(int64_t machine, int32_t device, int64_t* values);
// Gives memory that the node's allocator keeps for reuse back to the device.
REMORA_API int32_t remora_machine_empty_cache(int64_t machine, int32_t device);
REMORA_API int32_t remora_machine_reset_peak_memory(int64_t machine, int32_t device);
// The address of a new at::Generator that refers to the default generator of a device slot; a negative number when no
// machine is open there. The caller releases it.
REMORA_API int64_t remora_default_generator(int32_t slot);
REMORA_API void remora_generator_release(int64_t generator);
// Runs a Python function on the node, in order with the operations: `payload` goes to the node's worker as it is, with
// `tensors` (addresses of at::Tensor on this machine). Answers the request's number.
REMORA_API int64_t remora_run(int64_t machine, int32_t device, int64_t timeout_millis, const char* name,
                              const uint8_t* payload, int64_t bytes, const int64_t* tensors, int64_t count);
// Waits for the function's end. Answers the size of the worker's answer (node_call.h describes it), which stays at
// *answer until the thread's next call.
REMORA_API int64_t remora_run_await(int64_t machine, int64_t request, const uint8_t** answer);
// The new storages of the answer become those of `tensors`, which nothing has used yet: as many, in order.
REMORA_API int32_t remora_run_bind(int64_t machine, int64_t request, const int64_t* tensors, int64_t count);
// The longest time that an unfinished one may take, in milliseconds; 0 when there is none.
REMORA_API int64_t remora_run_longest(int64_t machine);
// As remora_run(), for what the process that executes the batches answers itself: `payload` is a NodeCall of
// models.proto.
REMORA_API int64_t remora_call_node(int64_t machine, int32_t device, int64_t timeout_millis, const char* name,
                                    const uint8_t* payload, int64_t bytes, const int64_t* tensors, int64_t count);
// Waits for the answer: instead of remora_run_await() and remora_run_bind(), for bindings that use at::Tensor. A handle;
// its payload, and the new tensors (addresses of at::Tensor), which are valid until it is released.
REMORA_API int64_t remora_node_answer(int64_t machine, int64_t request);
REMORA_API int64_t remora_node_answer_payload(int64_t answer);
REMORA_API int64_t remora_node_answer_bytes(int64_t answer);
REMORA_API int64_t remora_node_answer_tensors(int64_t answer);
REMORA_API int64_t remora_node_answer_tensor(int64_t answer, int64_t index);
REMORA_API void remora_node_answer_release(int64_t answer);
// Events: places in the operation stream. Answers a handle, or a negative number.
REMORA_API int64_t remora_event_record(int64_t machine, int32_t device);
REMORA_API int32_t remora_event_query(int64_t event);  // 1 when it has happened
REMORA_API int32_t remora_event_synchronize(int64_t event);
REMORA_API double remora_event_elapsed(int64_t first, int64_t second);  // milliseconds on the node; NaN on failure
REMORA_API void remora_event_destroy(int64_t event);
// Gives the device slots back. Tensors that still live on it become stale.
REMORA_API void remora_machine_close(int64_t machine);
// Counters since the machine was opened; see remora_statistic.
REMORA_API int64_t remora_machine_statistic(int64_t machine, int32_t statistic);
enum remora_statistic {
  REMORA_OPERATIONS = 0,        // operations recorded
  REMORA_BATCHES = 1,           // batches closed
  REMORA_BATCH_BYTES = 2,       // bytes of closed batches, uploads included
  REMORA_UPLOADED_BYTES = 3,    // tensor bytes uploaded
  REMORA_DOWNLOADED_BYTES = 4,  // tensor bytes read
  REMORA_BLOCKING_READS = 5,    // times recording waited for a value or for output metadata
  REMORA_PLAN_MISSES = 6,       // calls whose output metadata was not cached
  REMORA_STORAGES = 7,          // storages alive in the program
  REMORA_STORAGE_BYTES = 8      // their bytes
};

// A batch's parts. The addresses stay valid until remora_batch_release().
REMORA_API int64_t remora_batch_sequence(int64_t batch);
REMORA_API int64_t remora_batch_data(int64_t batch);
REMORA_API int64_t remora_batch_bytes(int64_t batch);
// Storages first used in this batch and alive at its end: triples (id, bytes, device).
REMORA_API int64_t remora_batch_born_count(int64_t batch);
REMORA_API int64_t remora_batch_born(int64_t batch);
// Storages of earlier batches that this batch frees: ids.
REMORA_API int64_t remora_batch_freed_count(int64_t batch);
REMORA_API int64_t remora_batch_freed(int64_t batch);
// The request this batch ends with, or 0; where its value goes (0 and 0 bytes when the answer is metadata).
REMORA_API int64_t remora_batch_request(int64_t batch);
REMORA_API int64_t remora_batch_destination(int64_t batch);
REMORA_API int64_t remora_batch_destination_bytes(int64_t batch);
REMORA_API void remora_batch_release(int64_t batch);

// ---------------------------------------------------------------- tensors (addresses of at::Tensor)

// Storage id of a tensor on a remora device, or -1 with a message.
REMORA_API int64_t remora_storage_id(int64_t tensor);
// FNV-1a over shape, strides, dtype, storage offset and storage id. For logs and debugging.
REMORA_API int64_t remora_metadata_hash(int64_t tensor);
// Number of device slots in use, and the calling thread's current device slot.
REMORA_API int32_t remora_open_devices(void);
REMORA_API int32_t remora_current_device(void);

// ---------------------------------------------------------------- executor

// devices: "cpu" or "cuda:<n>", separated by commas; the same device may stand there several times. denied: operators
// that are refused, by name ("aten::from_file"), overload ("aten::add.out") or namespace ("c10d::*"), separated by commas. Answers a handle, or a negative number.
// An executor is for one thread at a time.
REMORA_API int64_t remora_executor_create(const char* devices, const char* denied);
REMORA_API void remora_executor_destroy(int64_t executor);
// Runs a batch. Answers a result handle (> 0), or a negative number when the bytes are not a well-formed batch.
// Operations that fail do not fail the batch: they are in the report.
REMORA_API int64_t remora_executor_execute(int64_t executor, const uint8_t* data, int64_t bytes);
// For all executors of the process. Without it Python functions fail.
REMORA_API void remora_set_run_callback(remora_run_callback callback);
// Takes over what the worker's answer shares. Afterwards the worker may let go of it. For an answer of the node, too.
REMORA_API int32_t remora_run_answer(const uint8_t* data, int64_t bytes);
// As remora_set_run_callback(), for what the node answers itself: remora_call_node(). Without it such calls fail.
REMORA_API void remora_set_node_callback(remora_run_callback callback);
// Within that callback: writes the values of the call's tensor number `tensor` to a file that there is, `bytes`
// bytes from `offset` on, in order.
REMORA_API int32_t remora_run_write(int64_t tensor, const char* path, int64_t offset, int64_t bytes);
REMORA_API int64_t remora_executor_storage_count(int64_t executor);
REMORA_API int64_t remora_executor_storage_bytes(int64_t executor);
// Writes everything the executor's session is made of to a new file: storages with their values, generators, operators,
// failures. `sequence` is the last batch it has executed. `summary` has room for four numbers: the file's bytes, its
// CRC-32C, the number of storages, the sequence. The file is complete and on disk, or not there.
REMORA_API int32_t remora_executor_save(int64_t executor, int64_t sequence, const char* path, int64_t* summary);
// Takes up, in an executor that has executed nothing, what was saved. The file may be anything: when it is not what was
// saved this fails with a message, and the executor is of no more use.
REMORA_API int32_t remora_executor_load(int64_t executor, const char* path, int64_t* summary);

// A result's report, and the values too large to travel inside it.
REMORA_API int64_t remora_result_report(int64_t result);
REMORA_API int64_t remora_result_report_bytes(int64_t result);
REMORA_API int64_t remora_result_value_count(int64_t result);
REMORA_API int64_t remora_result_value_request(int64_t result, int64_t index);
REMORA_API int64_t remora_result_value(int64_t result, int64_t index);
REMORA_API int64_t remora_result_value_bytes(int64_t result, int64_t index);
REMORA_API void remora_result_release(int64_t result);

// ---------------------------------------------------------------- tensors on their way from node to node

// Says how tensors of other nodes are fetched, and what is held for them at most: so many tickets and bytes, each for
// no longer than the lifetime. For the whole process; without it nothing is fetched.
REMORA_API int32_t remora_transfer_configure(remora_fetch_callback fetch, int64_t max_tickets, int64_t max_bytes,
                                             int64_t lifetime_millis);
// The bytes that are held under a ticket, which thereby ceases to exist. Answers a handle, or 0 when there is no such
// ticket (any more).
REMORA_API int64_t remora_transfer_take(const char* ticket);
REMORA_API int64_t remora_transfer_data(int64_t transfer);
REMORA_API int64_t remora_transfer_bytes(int64_t transfer);
REMORA_API void remora_transfer_release(int64_t transfer);
// Frees what was held for too long; how many tickets that were. To be called now and then.
REMORA_API int32_t remora_transfer_expire(void);

#ifdef __cplusplus
}
#endif
#endif
