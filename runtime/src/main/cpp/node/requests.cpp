// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Records that the program waits for: questions, events, values, functions, transfers.
#include "node/call.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "node/device.h"
#include "node/held_transfers.h"

namespace remora {

// Finds an event, or creates it when the program first names it. The program keeps to the limit.
Executor::Event& Executor::event(uint64_t id) {
  auto& event = events_[id];
  if (events_.size() > kMaxEvents) throw WireError("there are more than " + std::to_string(kMaxEvents) + " events");
  return event;
}

void Executor::record_event(Reader& r) {
  auto id = r.varint();
  auto device = devices_[r.bounded(devices_.size() - 1, "a device")];
  auto& event = this->event(id);
  event.time = std::chrono::steady_clock::now();
  if (!device.is_cpu()) {
    event.device.emplace(device.type(), c10::EventFlag::BACKEND_DEFAULT);
    event.device->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  }
}

double Executor::elapsed(uint64_t first, uint64_t second) {
  auto a = events_.find(first);
  auto b = events_.find(second);
  TORCH_CHECK(a != events_.end() && b != events_.end(), "the event was not recorded");
  if (a->second.device && b->second.device) {
    a->second.device->synchronize();
    b->second.device->synchronize();
    return a->second.device->elapsedTime(*b->second.device);
  }
  return std::chrono::duration<double, std::milli>(b->second.time - a->second.time).count();
}

void Executor::question(Reader& r) {
  lease_.release();  // the code below may wait for another session
  auto request = static_cast<int64_t>(r.varint());
  auto kind = static_cast<Question>(r.u8());
  if (kind == Question::kHoldTransfer || kind == Question::kFetchTransfer) {
    transfer(r, request, kind);
    return;
  }
  auto device_argument = [&] { return static_cast<uint32_t>(r.bounded(devices_.size() - 1, "a device")); };
  Writer answer;
  Call call;
  auto name = "question " + std::to_string(static_cast<int>(kind));
  call.name = name;
  // Reads all arguments before anything can fail.
  uint64_t first = 0;
  uint64_t second = 0;
  switch (kind) {
    case Question::kRandomState:
      first = r.varint();
      second = device_argument();
      break;
    case Question::kSynchronizeEvent: first = r.varint(); break;
    case Question::kElapsed:
      first = r.varint();
      second = r.varint();
      break;
    case Question::kSynchronize:
    case Question::kMemory:
    case Question::kEmptyCache:
    case Question::kResetPeakMemory: first = device_argument(); break;
    default: r.fail("unknown question " + std::to_string(static_cast<int>(kind)));
  }
  try {
    switch (kind) {
      case Question::kRandomState: {
        auto state = generator(first, static_cast<uint32_t>(second)).get_state().contiguous();
        answer.raw(state.const_data_ptr(), state.nbytes());
        break;
      }
      case Question::kSynchronize: synchronize(devices_[first]); break;
      case Question::kSynchronizeEvent: {
        auto it = events_.find(first);
        if (it != events_.end() && it->second.device) {
          it->second.device->synchronize();
        }
        break;
      }
      case Question::kElapsed: answer.f64(elapsed(first, second)); break;
      case Question::kMemory: {
        storages_.each([&](int64_t, Storage& storage) { account(storage); });
        auto device = devices_[first];
        if (device.is_cpu()) {
          const auto& memory = memory_[first];
          for (auto bytes : {memory.allocated, memory.peak, memory.allocated, memory.peak, uint64_t{0}}) {
            answer.varint(bytes);
          }
        } else {
          auto memory = device_memory(device);
          for (auto bytes :
               {memory.allocated, memory.peak_allocated, memory.reserved, memory.peak_reserved, memory.total}) {
            answer.varint(static_cast<uint64_t>(bytes));
          }
        }
        break;
      }
      case Question::kEmptyCache:
        if (!devices_[first].is_cpu()) {
          empty_cache(devices_[first]);
        }
        break;
      case Question::kResetPeakMemory:
        memory_[first].peak = memory_[first].allocated;
        if (!devices_[first].is_cpu()) {
          reset_peak_memory(devices_[first]);
        }
        break;
      case Question::kHoldTransfer:
      case Question::kFetchTransfer: break;  // see transfer()
    }
  } catch (const std::exception& e) {
    call.refuse(e);
  }
  if (!call.refusal.empty()) {
    request_failed(request, *fail_refused(call));
    return;
  }
  answered(request, answer.data(), answer.size());
}

// One node's part in a copy from machine to machine; see client/transfer.h.
void Executor::transfer(Reader& r, int64_t request, Question kind) {
  bool holding = kind == Question::kHoldTransfer;
  Call call;
  call.name = holding ? "sending to another machine" : "receiving from another machine";
  std::string ticket(r.string());
  if (ticket.size() != kTicketCharacters) {
    r.fail("a ticket of " + std::to_string(ticket.size()) + " characters");
  }
  bool temporary = holding && r.u8() != 0;
  auto address = holding ? std::string() : std::string(r.string());
  auto bits = r.u8();
  if (!(bits & kTensor)) {
    r.fail("a transfer names no tensor");
  }
  auto t = tensor(r, bits, call);
  if (!holding) cannot_be_repeated(call.name);
  if (!call.failure && call.refusal.empty()) {
    try {
      TORCH_CHECK(t.is_contiguous() && !t.is_conj() && !t.is_neg(), "only contiguous tensors can be transferred");
      TORCH_CHECK(static_cast<uint64_t>(t.nbytes()) <= kMaxTransferBytes, "a transfer is limited to ",
                  kMaxTransferBytes, " bytes, not ", t.nbytes());
      c10::DeviceGuard guard(devices_[call.device]);
      auto transferred = holding ? hold_for_transfer(ticket, t, temporary, this) : fetch_transfer(ticket, address, t);
      Writer answer;
      answer.code(transferred.result);
      answer.string(transferred.reason);
      answered(request, answer.data(), answer.size());
      return;
    } catch (const std::exception& e) {
      call.refuse(e);
    }
  }
  refuse(request, call);
}

at::Generator& Executor::generator(uint64_t id, uint32_t device) {
  auto& generator = generators_[id];
  if (generators_.size() > kMaxGenerators) {
    throw WireError("there are more than " + std::to_string(kMaxGenerators) + " generators");
  }
  if (!generator.defined()) {
    generator = new_generator(devices_[device]);
  }
  return generator;
}

void Executor::run(Reader& r, Callee callee) {
  lease_.release();  // the code below may wait for another session
  auto request = static_cast<int64_t>(r.varint());
  FunctionCall function;
  function.callee = callee;
  function.device = static_cast<uint32_t>(r.bounded(devices_.size() - 1, "a device"));
  function.timeout_millis = static_cast<int64_t>(r.bounded(kMaxRunMillis, "a time limit"));
  Call call;
  auto name = (callee == Callee::kWorker ? "remora.remote " : "") + std::string(r.string());
  call.name = name;
  auto bytes = r.count("a function's size");
  function.payload = {reinterpret_cast<const char*>(r.raw(bytes)), bytes};
  for (auto n = r.count("a count of tensors"); n > 0; n--) {
    auto bits = r.u8();
    if (bits == static_cast<uint8_t>(Tag::kWrapped)) {
      bits = r.u8();
    }
    if (!(bits & kTensor)) {
      r.fail("a function's argument is not a tensor");
    }
    function.tensors.push_back(tensor(r, bits, call));
    function.tensor_devices.push_back(call.inputs.back().storage->device);
  }
  if (callee == Callee::kNode) cannot_be_repeated(call.name);
  if (!call.failure && call.refusal.empty()) {
    try {
      if (callee == Callee::kNode) {
        function.available = available_memory(devices_[function.device]);
      }
      auto result = run_function(reinterpret_cast<int64_t>(this), devices_, generator(function.device, function.device),
                                 function);
      answered(request, result.answer.data(), result.answer.size());
      if (!result.created.empty()) {
        asked_[request] = std::move(result.created);
      }
      return;
    } catch (const std::exception& e) {
      call.refuse(e);
    }
  }
  refuse(request, call);
}

void Executor::value(int64_t request, const at::Tensor& value) {
  auto bytes = static_cast<uint64_t>(value.nbytes());
  auto& report = result_->report;
  if (bytes <= kInlineValueBytes) {
    report.code(remora::Event::kValue);
    report.varint(request);
    report.varint(bytes);
    report.raw(value.const_data_ptr(), bytes);
  } else {
    report.code(remora::Event::kLargeValue);
    report.varint(request);
    report.varint(bytes);
    result_->values.push_back({request, value});
  }
}

void Executor::read(Reader& r) {
  auto request = static_cast<int64_t>(r.varint());
  auto bits = r.u8();
  Call call;
  call.name = "read";
  if (bits == static_cast<uint8_t>(Tag::kWrapped)) {
    bits = r.u8();
  }
  if (!(bits & kTensor)) {
    r.fail("a read names no tensor");
  }
  auto t = tensor(r, bits, call);
  if (!call.failure && call.refusal.empty()) {
    try {
      c10::DeviceGuard guard(devices_[call.device]);
      TORCH_CHECK(t.nbytes() <= kMaxValueBytes, "a value of ", t.nbytes(), " bytes must be read in pieces of at most ",
                  kMaxValueBytes);
      auto plain = t.resolve_conj().resolve_neg().contiguous();
      if (!plain.device().is_cpu()) {
        plain = plain.cpu();
      } else if (plain.unsafeGetTensorImpl() == t.unsafeGetTensorImpl() &&
                 static_cast<uint64_t>(plain.nbytes()) > kInlineValueBytes) {
        // The value is sent after this batch, and later batches may write to the tensor.
        plain = plain.clone();
      }
      value(request, plain);
      return;
    } catch (const std::exception& e) {
      call.refuse(e);
    }
  }
  refuse(request, call);
}

}  // namespace remora
