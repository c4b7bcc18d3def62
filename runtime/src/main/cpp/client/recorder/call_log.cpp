// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/recorder/call_log.h"

#include <cstdio>
#include <sstream>
#include <utility>

#include "client/machine/callbacks.h"
#include "client/machine/machine.h"
#include "client/storage.h"

namespace remora {

uint64_t metadata_hash(const at::Tensor& t) {
  uint64_t hash = fnv1a(t.sizes().data(), t.sizes().size() * sizeof(int64_t));
  hash = fnv1a(t.strides().data(), t.strides().size() * sizeof(int64_t), hash);
  auto* context = context_of(t);
  int64_t rest[] = {static_cast<int64_t>(t.scalar_type()), t.storage_offset(), context ? context->id : 0};
  return fnv1a(rest, sizeof rest, hash);
}

std::string describe_with_id(const at::Tensor& t) {
  auto text = describe(t.scalar_type(), t.sizes(), t.strides());
  if (auto* context = context_of(t)) {
    char suffix[64];
    std::snprintf(suffix, sizeof suffix, "#%lld:%08llx", static_cast<long long>(context->id),
                  static_cast<unsigned long long>(metadata_hash(t) & 0xFFFFFFFFULL));
    text += suffix;
  } else if (t.device().is_cpu()) {
    text += " on cpu";
  }
  return text;
}

namespace {

std::string describe_value(const c10::IValue& value) {
  if (value.isTensor()) {
    return value.toTensor().defined() ? describe_with_id(value.toTensor()) : "undefined";
  }
  if (value.isTensorList() || value.isOptionalTensorList() || value.isList()) {
    std::string list = "[";
    for (const auto& element : value.toListRef()) list += (list.size() > 1 ? ", " : "") + describe_value(element);
    return list + "]";
  }
  std::ostringstream plain;
  plain << value;
  return plain.str();
}

}  // namespace

void announce(const Caller& caller, Arguments arguments, c10::ArrayRef<c10::IValue> outputs) {
  auto& machine = *caller.machine;
  caller.call = ++machine.open.calls;
  if (callbacks().trace == nullptr) {
    return;
  }
  if (machine.call_sites.load(std::memory_order_relaxed)) {
    callbacks().trace(machine.handle, caller.call, "");
  }
  if (machine.trace.load(std::memory_order_relaxed)) {
    auto& line = caller.text;
    line = caller.info.full_name + "(";
    for (size_t i = 0; i < arguments.size(); i++) line += (i ? ", " : "") + describe_value(arguments[i]);
    line += ")";
    for (size_t i = 0; i < outputs.size(); i++) line += (i ? ", " : " -> ") + describe_value(outputs[i]);
  }
}

void begin_timing(const Caller& caller) {
  auto& timeline = caller.machine->timeline;
  if (timeline.detail() == Timeline::kOperations) {
    caller.since = Timeline::ticks();
    if (timeline.wants_line(caller.since)) caller.line = timeline.line(caller.since);
  }
}

void end_timing(const Caller& caller) {
  if (caller.since != 0) {
    caller.machine->timeline.operation(caller.call, caller.info.full_name, std::move(caller.line), caller.since,
                                       caller.slot);
  }
}

void log_call(const Caller& caller) {
  if (!caller.text.empty()) {
    callbacks().trace(caller.machine->handle, caller.call, caller.text.c_str());
    caller.text.clear();
  }
}

}  // namespace remora
