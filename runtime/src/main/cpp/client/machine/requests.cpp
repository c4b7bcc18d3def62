// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The machine's requests to its node, and the waits for their answers.
#include <exception>

#include "client/machine/callbacks.h"
#include "client/machine/machine.h"
#include "common/error.h"

namespace remora {

namespace {

const char* name_of(Question question) {
  switch (question) {
    case Question::kRandomState: return "a generator's state";
    case Question::kSynchronize: return "synchronize()";
    case Question::kSynchronizeEvent: return "an event";
    case Question::kElapsed: return "the time between two events";
    case Question::kMemory: return "memory figures";
    case Question::kEmptyCache: return "empty_cache()";
    case Question::kResetPeakMemory: return "reset_peak_memory_stats()";
    case Question::kHoldTransfer:
    case Question::kFetchTransfer: return "a copy to another machine";
  }
  return "a question";
}

}  // namespace

std::string Machine::await(int64_t request, Waits::Cause cause, std::string_view what) {
  Waiting waiting(waits, cause, what);
  try {
    callbacks().await(handle, request);
  } catch (const std::exception& e) {
    answers_.take(request);  // the answer may have arrived just after the wait ended
    if (error_text(e).rfind("RestoredException: ", 0) == 0) restored_.store(false);
    throw;
  }
  return answers_.take(request);
}

std::string Machine::await_outputs(int64_t request, Waits::Cause cause, std::string_view what) {
  try {
    return await(request, cause, what);
  } catch (...) {
    try {
      Lock lock(*this);
      begin_record(false);
      write_bind(request, {});
    } catch (const std::exception&) {
      // The machine is gone, and the node has dropped the outputs with it.
    }
    throw;
  }
}

void Machine::answer(int64_t request, std::string bytes) { answers_.put(request, std::move(bytes)); }

std::string Machine::question(Question question, std::initializer_list<uint64_t> arguments) {
  return this->question(question, [&] {
    for (auto argument : arguments) open.varint(argument);
  });
}

std::string Machine::question(Question question, const std::function<void()>& write_arguments) {
  auto request = next_request();
  {
    Lock lock(*this);
    begin_record();
    open.code(Record::kQuestion);
    open.varint(request);
    open.code(question);
    write_arguments();
    submit_open_batch(request);
  }
  return await(request, Waits::kOther, name_of(question));
}

std::array<int64_t, 5> Machine::memory(int device) {
  auto answer = question(Question::kMemory, {static_cast<uint64_t>(device)});
  Reader r(reinterpret_cast<const uint8_t*>(answer.data()), answer.size());
  std::array<int64_t, 5> figures{};
  for (auto& figure : figures) figure = static_cast<int64_t>(r.varint());
  return figures;
}

}  // namespace remora
