// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/recorder/inference.h"

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/record_function.h>

#include <unordered_map>

#include "client/machine/callbacks.h"
#include "client/machine/slots.h"
#include "client/recorder/plan_key.h"
#include "client/shapes/shapes.h"

namespace remora {

namespace {

// A call's arguments on a device without memory.
class BareArguments {
 public:
  // Exact: the tensors share storages and offsets as the real ones do.
  BareArguments(c10::Device device, bool exact) : device_(device), exact_(exact) {}

  c10::IValue of(const c10::IValue& value) {
    if (value.isTensor()) {
      return of(value.toTensor());
    }
    if (value.isTensorList()) {
      auto list = value.toTensorVector();
      for (auto& t : list) t = of(t);
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const auto& element : value.toListRef()) {
        list.push_back(element.isNone() ? std::optional<at::Tensor>() : of(element.toTensor()));
      }
      return list;
    }
    if (value.isDevice()) {
      return device_;
    }
    if (value.isGenerator()) {
      return {};
    }
    return value;
  }

  at::Tensor of(const at::Tensor& t) {
    if (!t.defined() || t.device().type() != kRemora) {
      return t;
    }
    auto& bare = known_[t.unsafeGetTensorImpl()];
    if (!bare.defined()) {
      auto options = at::TensorOptions().dtype(t.scalar_type()).device(device_);
      if (exact_) {
        auto& bytes = storages_[t.storage().unsafeGetStorageImpl()];
        if (!bytes.defined()) {
          bytes = at::empty({static_cast<int64_t>(t.storage().nbytes())}, options.dtype(at::kByte));
        }
        bare = at::empty({0}, options).set_(bytes.storage(), t.storage_offset(), t.sizes(), t.strides());
      } else {
        bare = at::empty_strided(t.sizes(), t.strides(), options);
      }
      if (t.is_conj()) bare._set_conj(true);
      if (t.is_neg()) bare._set_neg(true);
      if (t.unsafeGetTensorImpl()->is_wrapped_number()) bare.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    return bare;
  }

 private:
  const c10::Device device_;
  const bool exact_;
  std::unordered_map<const void*, at::Tensor> known_;
  std::unordered_map<const void*, at::Tensor> storages_;
};

OutputPlan plan_of_tensor(const OperatorInfo& info, const at::Tensor& t) {
  OutputPlan plan;
  if (!t.defined()) {
    plan.kind = OutputPlan::kUndefined;
    return plan;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(!c10::isQIntType(t.scalar_type()), info.full_name, ": ", kNotQuantized);
  TORCH_CHECK_NOT_IMPLEMENTED(t.layout() == c10::kStrided, info.full_name, ": ", kNotSparse);
  plan.kind = OutputPlan::kTensor;
  plan.meta = TensorMeta::of(t);
  plan.meta.offset = 0;
  plan.bytes = static_cast<int64_t>(plan.meta.bytes());
  return plan;
}

// Whether elements that the operator writes share memory with each other or with another argument, in a way that the
// operator may refuse.
bool overlaps(const OperatorInfo& info, Arguments arguments) {
  bool found = false;
  each_written_tensor(info, arguments, [&](const at::Tensor& written) {
    if (found || !written.defined() || !written.has_storage()) return;
    found = at::has_internal_overlap(written) == at::MemOverlap::Yes;
    each_in_same_storage(written, arguments, [&](uint64_t, const at::Tensor& other) {
      auto overlap = at::get_overlap_status(written, other);
      found = found || overlap == at::MemOverlapStatus::Partial ||
              (!info.overwritten.empty() && overlap != at::MemOverlapStatus::No);
    });
  });
  return found;
}

// Drops a kernel's warnings: the node's kernel gives the same ones.
struct NoWarnings final : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

}  // namespace

void check_arguments(const OperatorInfo& info, Arguments arguments) {
  if (info.check == nullptr) {
    return;
  }
  NoWarnings none;
  bool loud = info.warns_at_call && callbacks().warns;
  c10::WarningUtils::WarningHandlerGuard quiet(loud ? c10::WarningUtils::get_warning_handler() : &none);
  info.check(arguments);
}

bool infer(const OperatorInfo& info, Arguments arguments, bool cuda, Plan& plan) {
  if (!info.of_pytorch && !info.has_meta_kernel) {
    return false;
  }
  if (info.of_pytorch && overlaps(info, arguments)) {
    return false;  // the node refuses the call, or not
  }
  ShapesOnly allowed(cuda);
  BareArguments bare(info.of_pytorch ? c10::Device(kShapes, 0) : c10::Device(c10::kMeta), info.only_views);
  torch::jit::Stack stack;
  stack.reserve(arguments.size());
  std::vector<at::Tensor> written;
  std::vector<TensorMeta> before;
  for (const auto& argument : arguments) {
    stack.push_back(bare.of(argument));
  }
  each_written_tensor(info, arguments, [&](const at::Tensor& t) {
    written.push_back(bare.of(t));
    before.push_back(t.defined() ? TensorMeta::of(t) : TensorMeta());
  });
  try {
    at::AutoDispatchBelowADInplaceOrView guard;
    at::DisableRecordFunctionGuard unseen;  // by a profiler, which shows what the program calls
    NoWarnings none;
    c10::WarningUtils::WarningHandlerGuard quiet(info.only_views ? c10::WarningUtils::get_warning_handler() : &none);
    info.handle.callBoxed(stack);
  } catch (const c10::NotImplementedError&) {
    return false;
  } catch (const c10::Error& e) {
    std::string what = e.what_without_backtrace();
    for (const char* sign : {
             "not allocated yet", "DispatchStub: unsupported device type",  // the kernel needs the values
             kShapesName, "MAIA", "Meta Backend",                           // it wants another device
             "while attempting to run this operator with Meta Tensors"      // it is in Python
         }) {
      if (what.find(sign) != std::string::npos) {
        return false;
      }
    }
    throw;  // the arguments do not fit together
  } catch (const std::exception&) {
    return false;  // a Meta kernel written in Python failed: ask the node
  }
  if (stack.size() != info.returns.size()) {
    return false;
  }
  plan.origin = info.only_views ? Origin::kView : used_rule() ? Origin::kRule : Origin::kLibtorch;
  for (size_t r = 0; r < info.returns.size(); r++) {
    OutputPlan output;
    auto kind = info.returns[r];
    if (kind >= 0) {
      output.kind = OutputPlan::kAlias;
      output.argument = kind;
    } else if (kind == OperatorInfo::kView) {
      if (!stack[r].isTensor()) {
        return false;
      }
      output.kind = OutputPlan::kView;
      output.argument = info.view_of[r];
      output.meta = TensorMeta::of(stack[r].toTensor());
    } else if (stack[r].isTensor()) {
      output = plan_of_tensor(info, stack[r].toTensor());
    } else if (stack[r].isTensorList()) {
      output.kind = OutputPlan::kList;
      for (const auto& element : stack[r].toListRef()) {
        output.list.push_back(plan_of_tensor(info, element.toTensor()));
      }
    } else {
      return false;
    }
    plan.outputs.push_back(std::move(output));
  }
  for (size_t i = 0; i < written.size(); i++) {
    if (!written[i].defined()) {
      continue;
    }
    auto after = TensorMeta::of(written[i]);
    after.offset = before[i].offset;  // the bare tensor has a storage of its own
    if (!(after == before[i])) {
      plan.resized.emplace_back(static_cast<uint32_t>(i), after);
    }
  }
  return true;
}

}  // namespace remora
