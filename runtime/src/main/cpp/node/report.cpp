// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What a report tells the program: failures, warnings, answers.
#include "node/call.h"

#include <algorithm>

namespace remora {

namespace {

int64_t steady_nanos() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

const char* error_class(const std::exception& error) {
  if (dynamic_cast<const c10::IndexError*>(&error)) return "IndexError";
  if (dynamic_cast<const c10::ValueError*>(&error)) return "ValueError";
  if (dynamic_cast<const c10::TypeError*>(&error)) return "TypeError";
  if (dynamic_cast<const c10::NotImplementedError*>(&error)) return "NotImplementedError";
  if (dynamic_cast<const c10::LinAlgError*>(&error)) return "LinAlgError";
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error)) return "OutOfMemoryError";
  return "RuntimeError";
}

std::shared_ptr<Failure> Executor::fail(Call& call, const std::exception& error) {
  return fail(call, error_text(error), error_class(error));
}

std::shared_ptr<Failure> Executor::fail_refused(Call& call) { return fail(call, call.refusal, call.refusal_error); }

namespace {

// Another node may have the memory, so that the program would not get the error there.
bool ran_out_of_memory(const std::string& message, const std::string& error) {
  return error == "OutOfMemoryError" || message.find("can't allocate memory") != std::string::npos ||
         message.find("std::bad_alloc") != std::string::npos;
}

}  // namespace

std::shared_ptr<Failure> Executor::fail(Call& call, const std::string& message, const std::string& error) {
  if (ran_out_of_memory(message, error)) cannot_be_repeated(std::string(call.name) + ", which ran out of memory");
  auto failure = std::make_shared<Failure>();
  failure->number = ++failures_;
  failure->call = call.number;
  failure->operation = std::string(call.name);
  failure->error = error;
  failure->message = message;
  failure->inputs = call.described;
  result_->report.code(remora::Event::kFailure);
  write_failure(*failure);
  return failure;
}

void Executor::write_failure(const Failure& failure) {
  auto& report = result_->report;
  report.varint(failure.number);
  report.varint(failure.call);
  report.string(failure.operation);
  report.string(failure.error);
  report.string(failure.message);
  auto inputs = std::min<size_t>(failure.inputs.size(), 64);
  report.varint(inputs);
  for (size_t i = 0; i < inputs; i++) report.string(failure.inputs[i]);
}

// A repeated warning is reported once per batch.
void Executor::write_warning(const Call& call, const c10::Warning& warning) {
  auto text = warning.msg().substr(0, kMaxWarningBytes);
  auto known = std::string(call.name) + ": " + text;
  if (warned_.size() >= kMaxWarnings || std::find(warned_.begin(), warned_.end(), known) != warned_.end()) {
    return;
  }
  warned_.push_back(std::move(known));
  auto& report = result_->report;
  report.code(remora::Event::kWarning);
  report.varint(call.number);
  report.string(call.name);
  report.code(std::holds_alternative<c10::DeprecationWarning>(warning.type()) ? WarningKind::kDeprecation
                                                                              : WarningKind::kUser);
  report.string(text);
}

// Answers a question, an asked call or a function.
void Executor::answered(int64_t request, const void* data, size_t bytes, remora::Event kind) {
  result_->report.code(kind);
  result_->report.varint(request);
  result_->report.varint(bytes);
  result_->report.raw(data, bytes);
}

void Executor::begin_times(Reader& r) {
  detail_ = r.bounded(2, "a detail");
  began_ = noted_ = steady_nanos();
  first_call_ = calls_ + 1;
  times_.clear();
}

void Executor::note_time(Record record) {
  auto now = steady_nanos();
  times_.code(record);
  times_.varint(static_cast<uint64_t>(now - noted_));
  noted_ = now;
}

void Executor::write_times() {
  Writer head;
  head.varint(static_cast<uint64_t>(began_));
  head.varint(static_cast<uint64_t>(steady_nanos() - began_));
  head.varint(first_call_);
  auto& report = result_->report;
  report.code(remora::Event::kTimes);
  report.varint(head.size() + times_.size());
  report.raw(head.data(), head.size());
  report.raw(times_.data(), times_.size());
}

void Executor::cannot_be_repeated(std::string_view what) {
  result_->report.code(remora::Event::kUnrepeatable);
  result_->report.string(what);
}

void Executor::refuse(int64_t request, Call& call) {
  if (!call.failure) {
    call.failure = fail_refused(call);
  }
  request_failed(request, *call.failure);
}

void Executor::request_failed(int64_t request, Failure& failure) {
  failure.told = true;
  result_->report.code(remora::Event::kRequestFailed);
  result_->report.varint(request);
  write_failure(failure);
}

}  // namespace remora
