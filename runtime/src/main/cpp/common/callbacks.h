// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The C functions through which the core calls a binding. They are part of the C interface (remora.h), and both sides
// of the core use them.
#ifndef REMORA_CALLBACKS_H
#define REMORA_CALLBACKS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A closed batch. The callee owns the batch and passes it to remora_batch_release() once the batch was executed or
// abandoned. Called in sequence order, one call at a time, on the thread that records; may block (backpressure).
// Returns 0, or a negative number after writing a NUL-terminated UTF-8 message of at most error_bytes to error.
typedef int32_t (*remora_submit_callback)(int64_t machine, int64_t batch, char* error, int32_t error_bytes);
// Blocks until the answer to the request has arrived. Same results as remora_submit_callback.
typedef int32_t (*remora_await_callback)(int64_t machine, int64_t request, char* error, int32_t error_bytes);
// Reports an operation, only while remora_machine_set_trace() asks for it. `call` is the operation's number among the
// machine's calls. For call sites, the callback is called with the text "" before the operation is recorded, under the
// machine's lock. For the log, it is called with the operation's text after recording, without the lock.
typedef void (*remora_trace_callback)(int64_t machine, int64_t call, const char* line);
// Receives diagnostics that are not errors, such as why tensors for another machine are copied through the program. May
// be null. Called without locks, on the thread that records.
typedef void (*remora_notice_callback)(int64_t machine, const char* text);
// Called every 100 ms by a waiting thread. If it returns non-zero, the wait ends with "KeyboardInterrupt: …".
typedef int32_t (*remora_interrupt_callback)(void);
// Writes where the program made a call (`call` as in remora_trace_callback) and returns the text's length; 0 when the
// place is not known.
typedef int32_t (*remora_call_site_callback)(int64_t machine, int64_t call, char* text, int32_t capacity);
// Writes the program's line that the calling thread is at, and returns the text's length; 0 when it is at none.
typedef int32_t (*remora_line_callback)(char* text, int32_t capacity);
// Runs a Python function for a batch, on the thread that executes the batch: passes the request to a worker process and
// the worker's answer to remora_run_answer(). common/node_call.h describes request and answer. Returns 0, or a negative
// number after writing a NUL-terminated UTF-8 message of at most error_bytes to error.
typedef int32_t (*remora_run_callback)(int64_t executor, const uint8_t* request, int64_t bytes, int64_t timeout_millis,
                                       char* error, int32_t error_bytes);
// Fills `bytes` bytes from destination on with the bytes that the node at address ("host:port") holds under the ticket.
// Returns 0 on success; 1 when nothing arrived, because the node cannot be reached or has no such ticket; a negative
// number when the transfer broke off. Writes the reason to error unless it returns 0. The executor's thread waits for
// this call, so the callee must limit its time.
typedef int32_t (*remora_fetch_callback)(const char* address, const char* ticket, int64_t destination, int64_t bytes,
                                         char* error, int32_t error_bytes);

#ifdef __cplusplus
}
#endif
#endif
