// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/recorder/asked_call.h"

#include "client/machine/batch_writer.h"
#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "client/recorder/call_log.h"

namespace remora {

namespace {

OutputPlan read_answer_output(Reader& r, int depth = 0) {
  OutputPlan plan;
  switch (static_cast<Answer>(r.u8())) {
    case Answer::kTensor:
      plan.kind = OutputPlan::kTensor;
      plan.meta = TensorMeta::read(r);
      plan.bytes = static_cast<int64_t>(r.bounded(kMaxStorageBytes, "a storage's size"));
      break;
    case Answer::kUndefined: break;
    case Answer::kList: {
      if (depth > 4) r.fail("lists nested too deep");
      plan.kind = OutputPlan::kList;
      for (auto n = r.count("a list's length"); n > 0; n--) plan.list.push_back(read_answer_output(r, depth + 1));
      break;
    }
    case Answer::kAlias:
      plan.kind = OutputPlan::kAlias;
      plan.argument = static_cast<int32_t>(r.bounded(1024, "an argument's number"));
      break;
    case Answer::kInt:
      plan.kind = OutputPlan::kValue;
      plan.value = r.zigzag();
      break;
    case Answer::kDouble:
      plan.kind = OutputPlan::kValue;
      plan.value = r.f64();
      break;
    case Answer::kBool:
      plan.kind = OutputPlan::kValue;
      plan.value = r.u8() != 0;
      break;
    case Answer::kComplex: {
      plan.kind = OutputPlan::kValue;
      double real = r.f64();
      plan.value = c10::complex<double>(real, r.f64());
      break;
    }
    case Answer::kString:
      plan.kind = OutputPlan::kValue;
      plan.value = std::string(r.string());
      break;
    case Answer::kNone: plan.kind = OutputPlan::kValue; break;
    default: r.fail("unknown answer");
  }
  return plan;
}

Plan read_answer(const OperatorInfo& info, Arguments arguments, const std::string& bytes) {
  Reader r(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  Plan plan;
  uint32_t index = 0;
  each_written_tensor(info, arguments, [&](const at::Tensor& t) {
    if (t.defined() && t.device().type() == kRemora) {
      auto after = TensorMeta::read(r);
      after.offset = t.storage_offset();  // the node has checked that the offset is unchanged
      if (!(after == TensorMeta::of(t))) {
        plan.resized.emplace_back(index, after);
      }
    }
    index++;
  });
  for (size_t i = 0; i < info.returns.size(); i++) {
    plan.outputs.push_back(read_answer_output(r));
  }
  return plan;
}

}  // namespace

Plan ask(const Caller& caller, Arguments arguments, int64_t request, bool values_decide) {
  auto& machine = *caller.machine;
  {
    Machine::Lock lock(machine);
    machine.begin_record();
    machine.open.begin_call(caller.info, caller.settings);
    for (const auto& argument : arguments) machine.open.write_argument(argument);
    announce(caller, arguments, {});
    machine.open.end_asked_call(request);
    machine.operations.fetch_add(1, std::memory_order_relaxed);
    end_timing(caller);
    machine.submit_open_batch(request);
  }
  log_call(caller);
  auto cause = values_decide ? Waits::kShape : Waits::kMetadata;
  try {
    return read_answer(caller.info, arguments, machine.await_outputs(request, cause, caller.info.full_name));
  } catch (const WireError& e) {
    raise("ProtocolException", caller.info.full_name + ": the node's answer is malformed " + e.what());
  }
}

}  // namespace remora
