// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/recorder/recorder.h"

#include <c10/util/SmallVector.h>

#include <memory>

#include "client/kernels/names.h"
#include "client/machine/batch_writer.h"
#include "client/machine/machine.h"
#include "client/recorder/asked_call.h"
#include "client/recorder/call_log.h"
#include "client/recorder/caller.h"
#include "client/recorder/inference.h"
#include "client/recorder/plan_key.h"
#include "client/recorder/results.h"
#include "client/recorder/stand_ins.h"
#include "client/storage.h"

namespace remora {

namespace {

using Outputs = c10::SmallVector<c10::IValue, 4>;

// Records a call whose plan is known. The caller holds the lock.
void record_planned(const Caller& caller, Arguments arguments, const Plan& plan, Outputs& outputs) {
  auto& machine = *caller.machine;
  check_resizable(caller.info, arguments, plan);
  machine.count(plan.origin);
  for (const auto& output : plan.outputs) {
    outputs.push_back(make_output(machine, caller.slot, output, arguments));
  }
  if (caller.info.only_views) {
    return;
  }
  machine.open.begin_call(caller.info, caller.settings);
  for (const auto& argument : arguments) machine.open.write_argument(argument);
  for (size_t i = 0; i < plan.outputs.size(); i++) write_output(machine, plan.outputs[i], outputs[i]);
  auto& form = machine.open.form();
  form.varint(plan.resized.size());
  resize_written(caller.info, arguments, plan, [&](uint32_t which, const at::Tensor& t) {
    auto meta = TensorMeta::of(t);
    meta.offset += byte_shift(t, *context_of(t)) / static_cast<int64_t>(t.element_size());
    form.varint(which);
    meta.write(form);
  });
  announce(caller, arguments, outputs);
  machine.open.end_call();
  end_timing(caller);
  machine.end_record();
}

bool has_mask(Arguments arguments) {
  for (const auto& value : arguments) {
    if (!value.isOptionalTensorList()) continue;
    for (const auto& element : value.toListRef()) {
      if (element.isTensor() && element.toTensor().defined() &&
          (element.toTensor().scalar_type() == at::kBool || element.toTensor().scalar_type() == at::kByte)) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace

void record_call(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& info = operator_info(op);
  auto base = stack->size() - info.arguments;
  Caller caller(info);
  locate(caller, *stack, base);
  auto& machine = *caller.machine;
  Arguments arguments(stack->data() + base, info.arguments);
  Outputs outputs;
  check_arguments(info, arguments);
  begin_timing(caller);

  DimensionNames names;
  if (C10_UNLIKELY(caller.named)) names = names_of_results(info, arguments);

  bool ask_always = info.always_ask || (info.masks_matter && has_mask(arguments));
  auto key = ask_always ? std::nullopt : plan_key(info, caller.settings, arguments);
  bool done = false;
  if (key) {
    Machine::Lock lock(machine);
    machine.begin_record();
    auto it = machine.plans.find(*key);
    if (it != machine.plans.end()) {
      record_planned(caller, arguments, *it->second, outputs);
      done = true;
    }
  }
  if (!done) {
    machine.misses.fetch_add(1, std::memory_order_relaxed);
    auto plan = std::make_unique<Plan>();
    bool inferred = !ask_always && infer(info, arguments, machine.on_cuda(), *plan);
    if (inferred) {
      Machine::Lock lock(machine);
      machine.begin_record();
      record_planned(caller, arguments, *plan, outputs);
    } else {
      auto stand_ins = put_stand_ins(info, arguments, stack->data() + base);
      if (!stand_ins.empty()) {
        record_call(op, {}, stack);
        take_over(stand_ins, *stack, info.returns.size());
        return;
      }
      auto request = machine.next_request();
      *plan = ask(caller, arguments, request, ask_always);
      plan->origin = ask_always ? Origin::kValues : Origin::kNode;
      resize_written(info, arguments, *plan, [](uint32_t, const at::Tensor&) {});
      for (const auto& output : plan->outputs) {
        outputs.push_back(make_output(machine, caller.slot, output, arguments));
      }
      std::vector<at::Tensor> fresh;
      for (size_t i = 0; i < plan->outputs.size(); i++) collect_new(plan->outputs[i], outputs[i], fresh);
      Machine::Lock lock(machine);
      machine.count(plan->origin);
      if (!fresh.empty()) {
        machine.begin_record();
        machine.write_bind(request, fresh);
      }
    }
    if (key && (inferred || info.answers_hold)) {
      Machine::Lock lock(machine);
      if (machine.plans.size() >= Machine::kMaxPlans) {
        machine.plans.clear();
      }
      machine.plans.emplace(*key, std::move(plan));
      machine.kept_plans.store(static_cast<int64_t>(machine.plans.size()), std::memory_order_relaxed);
    }
  }
  log_call(caller);
  if (!names.empty()) name_results(names, outputs);
  torch::jit::drop(*stack, info.arguments);
  for (auto& output : outputs) stack->push_back(std::move(output));
}

}  // namespace remora
