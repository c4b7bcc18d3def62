// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/recorder/results.h"

#include <c10/core/ScalarTypeToTypeMeta.h>

#include "client/machine/batch_writer.h"
#include "client/machine/machine.h"
#include "client/storage.h"

namespace remora {

void check_resizable(const OperatorInfo& info, Arguments arguments, const Plan& plan) {
  if (plan.resized.empty()) {
    return;
  }
  uint32_t index = 0;
  each_written_tensor(info, arguments, [&](const at::Tensor& t) {
    for (auto [which, meta] : plan.resized) {
      if (which != index) {
        continue;
      }
      meta.offset = t.storage_offset();
      auto* storage = t.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
      check_storage_bytes(meta.bytes());
      if (meta.bytes() > storage->nbytes()) {
        whole_storage(storage);
      }
    }
    index++;
  });
}

void resize_written(const OperatorInfo& info, Arguments arguments, const Plan& plan,
                    const std::function<void(uint32_t, const at::Tensor&)>& resized) {
  if (plan.resized.empty()) {
    return;
  }
  uint32_t index = 0;
  each_written_tensor(info, arguments, [&](const at::Tensor& t) {
    for (const auto& [which, meta] : plan.resized) {
      if (which != index) {
        continue;
      }
      auto* impl = t.unsafeGetTensorImpl();
      impl->set_sizes_and_strides(meta.sizes, meta.strides, t.storage_offset());
      auto* storage = impl->unsafe_storage().unsafeGetStorageImpl();
      auto bytes = TensorMeta::of(t).bytes();
      if (bytes > storage->nbytes()) {
        note_resized(storage, bytes);  // on the node, the operator itself enlarges the storage
      }
      resized(which, t);
    }
    index++;
  });
}

c10::IValue make_output(Machine& machine, int slot, const OutputPlan& plan, Arguments arguments) {
  switch (plan.kind) {
    case OutputPlan::kAlias: return arguments[plan.argument];
    case OutputPlan::kView: {
      const auto& base = arguments[plan.argument].toTensor();
      auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(base.storage()),
                                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                                           c10::scalarTypeToTypeMeta(plan.meta.dtype));
      view.unsafeGetTensorImpl()->set_sizes_and_strides(plan.meta.sizes, plan.meta.strides, plan.meta.offset);
      if (plan.meta.conj) view._set_conj(true);
      if (plan.meta.neg) view._set_neg(true);
      return view;
    }
    case OutputPlan::kTensor: return new_tensor(machine, slot, plan.meta, plan.bytes);
    case OutputPlan::kUndefined: return at::Tensor();
    case OutputPlan::kList: {
      std::vector<at::Tensor> list;
      for (const auto& element : plan.list) list.push_back(make_output(machine, slot, element, arguments).toTensor());
      return list;
    }
    case OutputPlan::kValue: return plan.value;
  }
  return {};
}

void write_output(Machine& machine, const OutputPlan& plan, const c10::IValue& value) {
  auto& form = machine.open.form();
  switch (plan.kind) {
    case OutputPlan::kTensor: machine.open.write_output(value.toTensor()); break;
    case OutputPlan::kList: {
      form.code(Output::kList);
      form.varint(plan.list.size());
      auto list = value.toListRef();
      for (size_t i = 0; i < plan.list.size(); i++) write_output(machine, plan.list[i], list[i]);
      break;
    }
    case OutputPlan::kUndefined: form.code(Output::kUndefined); break;
    default: form.code(Output::kAlias);
  }
}

void collect_new(const OutputPlan& plan, const c10::IValue& value, std::vector<at::Tensor>& result) {
  if (plan.kind == OutputPlan::kTensor) {
    result.push_back(value.toTensor());
  } else if (plan.kind == OutputPlan::kList) {
    auto list = value.toListRef();
    for (size_t i = 0; i < plan.list.size(); i++) collect_new(plan.list[i], list[i], result);
  }
}

}  // namespace remora
