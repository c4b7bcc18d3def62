// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The C functions through which a binding is called back: part of the C interface, remora.h, and known to both sides.
#ifndef REMORA_CALLBACKS_H
#define REMORA_CALLBACKS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A closed batch. The callee owns it and passes it to remora_batch_release() once it was executed or given up.
// Called in sequence order, one call at a time; may block (backpressure), on whichever thread records.
// Answers 0, or a negative number after writing a NUL-terminated UTF-8 message of at most error_bytes to error.
typedef int32_t (*remora_submit_callback)(int64_t machine, int64_t batch, char* error, int32_t error_bytes);
// Blocks until the answer to request is there. Same results as remora_submit_callback.
typedef int32_t (*remora_await_callback)(int64_t machine, int64_t request, char* error, int32_t error_bytes);
// Tells of each operation, only while remora_machine_set_trace() says so, by its number among the machine's calls: with
// the text "" before it is recorded and under the machine's lock, for the sake of call sites; with a text for the log
// when it was recorded, without the lock.
typedef void (*remora_trace_callback)(int64_t machine, int64_t call, const char* line);
// Receives diagnostics that are not errors, such as why tensors for another machine take the way through the program.
// May be null. Called without locks, on the thread that records.
typedef void (*remora_notice_callback)(int64_t machine, const char* text);
// Asked every 100 ms by a thread that waits; not 0: its wait ends with "KeyboardInterrupt: …".
typedef int32_t (*remora_interrupt_callback)(void);
// Writes where the program made a call (its number as remora_trace_callback had it) and answers the text's length; 0
// when it is not known.
typedef int32_t (*remora_call_site_callback)(int64_t machine, int64_t call, char* text, int32_t capacity);
// Runs a Python function for a batch, on the thread that executes it: hands the request to a worker process and its
// answer to remora_run_answer(); common/node_call.h describes both. Answers 0, or a negative number after writing a
// NUL-terminated UTF-8 message of at most error_bytes to error.
typedef int32_t (*remora_run_callback)(int64_t executor, const uint8_t* request, int64_t bytes, int64_t timeout_millis,
                                       char* error, int32_t error_bytes);
// Fills `bytes` bytes from destination on with what the node at address ("host:port") holds under the ticket. Answers 0;
// 1 when nothing came, since it cannot be reached or has no such ticket; a negative number when the transfer ended
// before it was complete. Not 0: after writing a NUL-terminated UTF-8 message of at most error_bytes to error. Called on
// the executor's thread, which waits: it must have a time limit.
typedef int32_t (*remora_fetch_callback)(const char* address, const char* ticket, int64_t destination, int64_t bytes,
                                         char* error, int32_t error_bytes);

#ifdef __cplusplus
}
#endif
#endif
