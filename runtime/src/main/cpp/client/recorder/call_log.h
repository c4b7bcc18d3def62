// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Reports of calls to the binding: each call's number, for its site in the program, and a line of text for the log.
#pragma once

#include <string>

#include "client/recorder/arguments.h"
#include "client/recorder/caller.h"

namespace remora {

std::string describe_with_id(const at::Tensor& t);
uint64_t metadata_hash(const at::Tensor& t);

// Numbers the call, and reports it to the binding if call sites are kept. This happens when the call is recorded, but
// before it is sent, so that an error finds the call's site. The caller holds the lock.
void announce(const Caller& caller, Arguments arguments, c10::ArrayRef<c10::IValue> outputs);
// For the machine's timeline: the recording of a call begins, without the lock; and ends, with the lock, before the call
// may be sent.
void begin_timing(const Caller& caller);
void end_timing(const Caller& caller);
// Without the lock: the binding's logging may take long, or may use the machine.
void log_call(const Caller& caller);

}  // namespace remora
