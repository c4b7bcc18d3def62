// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/recorder/caller.h"

#include <ATen/ATen.h>

#include <optional>

#include "client/kernels/names.h"
#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "client/recorder/arguments.h"
#include "client/storage.h"
#include "common/torch_version.h"

namespace remora {

void Caller::on(Machine& other, int other_slot) {
  if (machine == nullptr) {
    machine = &other;
    slot = other_slot;
  } else if (machine != &other) {
    raise("CrossMachineException", info.full_name + ": one tensor is on machine '" + machine->name +
                                       "' (remora:" + std::to_string(slot) + "), another on machine '" + other.name +
                                       "' (remora:" + std::to_string(other_slot) +
                                       "); move one of them to the other's device with tensor.to(machine.device())");
  }
}

namespace {

bool sendable(const c10::IValue& value) {
  return value.isTensor() || value.isNone() || value.isInt() || value.isDouble() || value.isBool() ||
         value.isString() || value.isDevice() || value.isComplexDouble() || value.isList() || is_unsigned(value) ||
         (value.isGenerator() && value.toGenerator().device().type() == kRemora);
}

}  // namespace

void locate(Caller& caller, std::vector<c10::IValue>& stack, size_t base) {
  auto tensor = [&](const at::Tensor& t) -> bool {
    if (!t.defined() || t.device().type() != kRemora) {
      return true;
    }
    if (t._is_zerotensor()) {
      return false;
    }
    auto& storage = storage_of(t);
    if (storage.machine->closed()) {
      storage.machine->check_usable(storage.id);
    }
    caller.on(*storage.machine, t.device().index());
    caller.named = caller.named || has_names(t);
    TORCH_CHECK(t.device().index() == caller.slot || caller.info.mixes_devices,
                "Expected all tensors to be on the same device, but found at least two devices, remora:", caller.slot,
                " and ", t.device(), "!");
    return true;
  };
  // Materializes a tensor of zeros without a storage, which forward-mode AD creates.
  auto materialized = [&](const at::Tensor& t) {
    auto zeros = at::zeros(t.sizes(), t.options());
    tensor(zeros);
    return zeros;
  };

  for (size_t i = 0; i < caller.info.arguments; i++) {
    auto& value = stack[base + i];
    if (!sendable(value)) {
      raise("RemoraException", caller.info.full_name + ": argument '" + caller.argument_name(i) + "' is a " +
                                   value.tagKind() + ", which cannot be sent to a remote device");
    }
    if (value.isTensor()) {
      if (!tensor(value.toTensor())) {
        value = materialized(value.toTensor());
      }
    } else if (value.isTensorList() || value.isOptionalTensorList()) {
      bool zeros = false;
      for (const auto& element : value.toListRef()) {
        zeros = (element.isTensor() && !tensor(element.toTensor())) || zeros;
      }
      if (zeros) {
        auto list = value.toList().copy();
        for (size_t k = 0; k < list.size(); k++) {
          const c10::IValue element = list.get(k);
          if (element.isTensor() && element.toTensor()._is_zerotensor()) list.set(k, materialized(element.toTensor()));
        }
        value = std::move(list);
      }
    }
  }
  // A factory's device argument selects the machine. That device and a generator must belong to the tensors' machine.
  for (size_t i = 0; i < caller.info.arguments; i++) {
    const auto& value = stack[base + i];
    if (value.isDevice() && value.toDevice().type() == kRemora) {
      int slot = 0;
      auto& machine = machine_of(value.toDevice(), &slot);
      caller.on(machine, slot);
    } else if (value.isGenerator() && value.toGenerator().device().type() == kRemora) {
      int slot = 0;
      auto& machine = machine_of(value.toGenerator().device(), &slot);
      caller.on(machine, slot);
    }
  }
  if (caller.machine == nullptr) {
    int slot = 0;
    auto& machine = machine_of(c10::Device(kRemora), &slot);
    caller.on(machine, slot);
  }

  // CPU tensors: 0-dim tensors are sent by value, indices are uploaded, all others are the caller's mistake.
  auto device = c10::Device(kRemora, static_cast<c10::DeviceIndex>(caller.slot));
  auto refuse = [&](const at::Tensor& t, size_t argument) {
    raise("CrossMachineException",
          caller.info.full_name + ": Expected all tensors to be on the same device, but argument '" +
              caller.argument_name(argument) + "' is a tensor on " + t.device().str() + " " +
              describe(t.scalar_type(), t.sizes(), c10::contiguous_strides(t.sizes())) +
              ", and the call runs on machine '" + caller.machine->name + "' (remora:" + std::to_string(caller.slot) +
              "); move it there with tensor.to(machine.device())");
  };
  auto is_written = [&](size_t argument) {
    for (auto w : caller.info.written) {
      if (w == argument) return true;
    }
    return false;
  };
  auto travels = [&](const at::Tensor& t, size_t argument) {
    return !t.defined() || t.device().type() == kRemora ||
           (t.device().is_cpu() && t.dim() == 0 && t.layout() == c10::kStrided && !t.is_quantized() &&
            !is_written(argument));
  };
  for (size_t i = 0; i < caller.info.arguments; i++) {
    auto& value = stack[base + i];
    if (value.isTensor()) {
      const auto& t = value.toTensor();
      if (!travels(t, i)) {
        refuse(t, i);
      }
    } else if (value.isTensorList()) {
      for (const auto& element : value.toListRef()) {
        if (!travels(element.toTensor(), i)) refuse(element.toTensor(), i);
      }
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> moved;
      bool changed = false;
      for (const auto& element : value.toListRef()) {
        if (element.isNone()) {
          moved.push_back(std::optional<at::Tensor>());
        } else if (element.toTensor().defined() && element.toTensor().device().is_cpu()) {
          moved.push_back(std::optional<at::Tensor>(element.toTensor().to(device)));
          changed = true;
        } else {
          moved.push_back(std::optional<at::Tensor>(element.toTensor()));
        }
      }
      if (changed) {
        value = std::move(moved);
      }
    }
  }
}

}  // namespace remora
