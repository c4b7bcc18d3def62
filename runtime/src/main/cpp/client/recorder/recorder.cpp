// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The boxed kernel of every operator without a kernel of its own for remora devices. It finds out what the call returns
// (from the plan cache, else libtorch's Meta kernels, else the node), records the call, and returns tensors without
// memory.
#include <ATen/MemoryOverlap.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <c10/util/irange.h>

#include <functional>
#include <optional>
#include <sstream>

#include "client/kernels/names.h"
#include "client/machine.h"
#include "client/storage.h"
#include "common/torch_version.h"

namespace remora {

namespace {

using Arguments = c10::ArrayRef<c10::IValue>;

// ---------------------------------------------------------------- whose call it is

struct Caller {
  const OperatorInfo& info;
  const Settings settings = Settings::of_program();
  Machine* machine = nullptr;
  int slot = -1;
  bool named = false;        // a tensor has named dimensions
  mutable int64_t call = 0;  // its number among the machine's calls
  mutable std::string text;  // the line for the log, if any

  explicit Caller(const OperatorInfo& info) : info(info) {}

  std::string argument_name(size_t index) const { return info.handle.schema().arguments()[index].name(); }

  void on(Machine& other, int other_slot) {
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
};

bool sendable(const c10::IValue& value) {
  return value.isTensor() || value.isNone() || value.isInt() || value.isDouble() || value.isBool() ||
         value.isString() || value.isDevice() || value.isComplexDouble() || value.isList() || is_unsigned(value) ||
         (value.isGenerator() && value.toGenerator().device().type() == kRemora);
}

// Finds the machine, refuses tensors of other devices, and replaces arguments in the stack that cannot be recorded as
// they are.
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

// ---------------------------------------------------------------- plan keys

void key_tensor(PlanKey& key, const at::Tensor& t) {
  if (!t.defined()) {
    key.mix(0x11);
    return;
  }
  auto* impl = t.unsafeGetTensorImpl();
  key.mix(0x12 | static_cast<uint64_t>(t.scalar_type()) << 8 | static_cast<uint64_t>(t.device().type()) << 16 |
          static_cast<uint64_t>(t.is_conj()) << 24 | static_cast<uint64_t>(t.is_neg()) << 25 |
          static_cast<uint64_t>(impl->is_wrapped_number()) << 26 | static_cast<uint64_t>(t.dim()) << 32);
  for (auto size : t.sizes()) key.mix(size);
  for (auto stride : t.strides()) key.mix(stride);
}

bool key_value(PlanKey& key, const c10::IValue& value, bool scalar, bool values_matter) {
  if (value.isTensor()) {
    key_tensor(key, value.toTensor());
  } else if (value.isNone()) {
    key.mix(0x21);
  } else if (value.isInt()) {
    key.mix(0x22);
    if (!scalar || values_matter) key.mix(value.toInt());
  } else if (is_unsigned(value)) {
    key.mix(0x30);
    if (!scalar || values_matter) key.mix(unsigned_of(value));
  } else if (value.isDouble()) {
    key.mix(0x23);
    if (values_matter) {
      uint64_t bits;
      double number = value.toDouble();
      std::memcpy(&bits, &number, sizeof bits);
      key.mix(bits);
    }
  } else if (value.isBool()) {
    key.mix(value.toBool() ? 0x24 : 0x25);
  } else if (value.isIntList()) {
    auto list = value.toIntVector();
    key.mix(0x26 | list.size() << 8);
    for (auto element : list) key.mix(element);
  } else if (value.isTensorList()) {
    auto list = value.toListRef();
    key.mix(0x27 | list.size() << 8);
    for (const auto& element : list) key_tensor(key, element.toTensor());
  } else if (value.isOptionalTensorList()) {
    auto list = value.toListRef();
    key.mix(0x28 | list.size() << 8);
    for (const auto& element : list) key_tensor(key, element.isNone() ? at::Tensor() : element.toTensor());
  } else if (value.isBoolList()) {
    auto list = value.toBoolList();
    key.mix(0x29 | list.size() << 8);
    for (bool element : list) key.mix(element);
  } else if (value.isDevice()) {
    key.mix(0x2A | static_cast<uint64_t>(value.toDevice().type()) << 8);
  } else if (value.isString()) {
    auto text = value.toStringView();
    key.mix(0x2B | text.size() << 8);
    key.mix(fnv1a(text.data(), text.size()));
  } else if (value.isGenerator()) {
    key.mix(0x2C);
  } else if (value.isComplexDouble()) {
    key.mix(0x2D);
    if (values_matter) return false;
  } else if (value.isDoubleList()) {
    auto list = value.toDoubleVector();  // e.g. upsample's scale factors, which determine sizes
    key.mix(0x2E | list.size() << 8);
    for (double element : list) {
      uint64_t bits;
      std::memcpy(&bits, &element, sizeof bits);
      key.mix(bits);
    }
  } else if (value.isList()) {
    auto list = value.toListRef();
    key.mix(0x2F | list.size() << 8);
    for (const auto& element : list) {
      if (!key_value(key, element, true, values_matter)) return false;
    }
  } else {
    return false;
  }
  return true;
}

bool is_scalar_type(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::NumberType) {
    return true;
  }
  auto optional = type->cast<c10::OptionalType>();
  return optional && optional->getElementType()->kind() == c10::TypeKind::NumberType;
}

template <class Visit>
void each_tensor(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isTensorList() || value.isOptionalTensorList()) {
    for (const auto& element : value.toListRef()) visit(element.isNone() ? at::Tensor() : element.toTensor());
  }
}

// Calls visit(position, tensor) for each tensor argument that shares its storage with `written`.
template <class Visit>
void each_in_same_storage(const at::Tensor& written, Arguments arguments, const Visit& visit) {
  const auto* impl = written.unsafeGetTensorImpl();
  const auto* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  uint64_t position = 0;
  for (const auto& argument : arguments) {
    each_tensor(argument, [&](const at::Tensor& t) {
      position++;
      const auto* other = t.unsafeGetTensorImpl();
      if (t.defined() && other != impl && other->unsafe_storage().unsafeGetStorageImpl() == storage) visit(position, t);
    });
  }
}

// A written tensor that is also an input may not be resized. One that shares memory with an input may be refused.
void key_identity(PlanKey& key, const OperatorInfo& info, Arguments arguments) {
  for (auto written : info.written) {
    if (!arguments[written].isTensor()) continue;  // no operator resizes a list
    const auto* impl = arguments[written].toTensor().unsafeGetTensorImpl();
    uint64_t position = 0;
    uint64_t same = 0;
    for (size_t i = 0; i < written; i++) {
      each_tensor(arguments[i], [&](const at::Tensor& t) {
        position++;
        if (same == 0 && t.unsafeGetTensorImpl() == impl) same = position;
      });
    }
    key.mix(0x31 | same << 8);
    if (impl->has_storage()) {
      each_in_same_storage(arguments[written].toTensor(), arguments, [&](uint64_t which, const at::Tensor& t) {
        auto overlap = at::get_overlap_status(impl, t.unsafeGetTensorImpl());
        key.mix(0x32 | static_cast<uint64_t>(overlap) << 8 | which << 16);
      });
    }
  }
}

bool shares_memory(const OperatorInfo& info, Arguments arguments) {
  bool shared = false;
  for (auto written : info.written) {
    if (!arguments[written].isTensor() || !arguments[written].toTensor().has_storage()) continue;
    each_in_same_storage(arguments[written].toTensor(), arguments, [&](uint64_t, const at::Tensor&) { shared = true; });
  }
  return shared;
}

// Everything that a plan may depend on:
// - the operator and the program's settings;
// - of each tensor the device type, dtype, sizes, strides, conj and neg bits, and whether it is a wrapped number;
// - where the operator writes, which tensors are identical and how others of the same storage overlap it;
// - where it makes views, the tensors' positions in their storages;
// - of each other argument the kind and the value, except the values of Scalars of operators that read tensors. Double
//   arguments that are no Scalars can determine sizes too, such as upsample's scales.
// The offset of a written tensor is not part of the key: the plan does not contain it (see Plan::resized).
std::optional<PlanKey> plan_key(const OperatorInfo& info, const Settings& settings, Arguments arguments) {
  PlanKey key;
  key.mix(info.index);
  key.mix(settings.key());
  const auto& schema = info.handle.schema().arguments();
  for (size_t i = 0; i < arguments.size(); i++) {
    const auto& value = arguments[i];
    bool scalar = (value.isInt() || value.isDouble()) && is_scalar_type(schema[i].type());
    bool values_matter = info.values_matter || (value.isDouble() && !scalar);
    if (!key_value(key, value, scalar, values_matter)) {
      return std::nullopt;
    }
    if (info.makes_views) {
      each_tensor(value, [&](const at::Tensor& t) {
        if (t.defined() && t.has_storage()) {
          key.mix(t.storage_offset());
          key.mix(t.storage().nbytes());
        }
      });
    }
  }
  if (!info.written.empty()) {
    key_identity(key, info, arguments);
  }
  return key;
}

// ---------------------------------------------------------------- output metadata from Meta kernels

class MetaArguments {
 public:
  // Exact: the Meta tensors share storages and offsets as the real ones do.
  explicit MetaArguments(bool exact) : exact_(exact) {}

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
      return c10::Device(c10::kMeta);
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
    auto& meta = known_[t.unsafeGetTensorImpl()];
    if (!meta.defined()) {
      auto options = at::TensorOptions().dtype(t.scalar_type()).device(c10::kMeta);
      if (exact_) {
        auto& bytes = storages_[t.storage().unsafeGetStorageImpl()];
        if (!bytes.defined()) {
          bytes = at::empty({static_cast<int64_t>(t.storage().nbytes())}, options.dtype(at::kByte));
        }
        meta = at::empty({0}, options).set_(bytes.storage(), t.storage_offset(), t.sizes(), t.strides());
      } else {
        meta = at::empty_strided(t.sizes(), t.strides(), options);
      }
      if (t.is_conj()) meta._set_conj(true);
      if (t.is_neg()) meta._set_neg(true);
      if (t.unsafeGetTensorImpl()->is_wrapped_number()) meta.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    return meta;
  }

 private:
  const bool exact_;
  std::unordered_map<const void*, at::Tensor> known_;
  std::unordered_map<const void*, at::Tensor> storages_;
};

void each_written_tensor(const OperatorInfo& info, Arguments arguments,
                         const std::function<void(const at::Tensor&)>& visit) {
  for (auto index : info.written) {
    const auto& value = arguments[index];
    if (value.isTensor()) {
      visit(value.toTensor());
    } else if (value.isTensorList()) {
      for (const auto& element : value.toListRef()) visit(element.toTensor());
    } else if (value.isOptionalTensorList()) {
      for (const auto& element : value.toListRef()) {
        if (!element.isNone()) visit(element.toTensor());
      }
    }
  }
}

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

// Drops a Meta kernel's warnings: the node's kernel gives the same ones.
struct NoWarnings final : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

// Returns false if libtorch cannot infer the outputs without running the operator. Throws the operator's own errors
// about its arguments.
bool infer(const OperatorInfo& info, Arguments arguments, Plan& plan) {
  if (!info.has_meta_kernel) {
    return false;
  }
  MetaArguments meta(info.only_views || shares_memory(info, arguments));
  torch::jit::Stack stack;
  stack.reserve(arguments.size());
  std::vector<at::Tensor> written;
  std::vector<TensorMeta> before;
  for (const auto& argument : arguments) {
    stack.push_back(meta.of(argument));
  }
  each_written_tensor(info, arguments, [&](const at::Tensor& t) {
    written.push_back(meta.of(t));
    before.push_back(t.defined() ? TensorMeta::of(t) : TensorMeta());
  });
  try {
    at::AutoDispatchBelowADInplaceOrView guard;
    NoWarnings none;
    c10::WarningUtils::WarningHandlerGuard quiet(info.only_views ? c10::WarningUtils::get_warning_handler() : &none);
    info.handle.callBoxed(stack);
  } catch (const c10::NotImplementedError&) {
    return false;
  } catch (const c10::Error& e) {
    std::string what = e.what_without_backtrace();
    for (const char* sign : {
             "not allocated yet", "Meta Backend",
             "DispatchStub: unsupported device type",                   // the kernel needs the values
             "while attempting to run this operator with Meta Tensors"  // the kernel is in Python
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
    after.offset = before[i].offset;  // the Meta tensor has a storage of its own
    if (!(after == before[i])) {
      plan.resized.emplace_back(static_cast<uint32_t>(i), after);
    }
  }
  return true;
}

// ---------------------------------------------------------------- output metadata from the node

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

// ---------------------------------------------------------------- results

// Checks, before anything is recorded, whether the storages that the operator enlarges can be resized.
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

void write_output(Machine& machine, const OutputPlan& plan, const c10::IValue& value, NamedTensors& named) {
  switch (plan.kind) {
    case OutputPlan::kTensor: machine.write_tensor(value.toTensor(), named); break;
    case OutputPlan::kList: {
      machine.open.code(Output::kList);
      machine.open.varint(plan.list.size());
      auto list = value.toListRef();
      for (size_t i = 0; i < plan.list.size(); i++) write_output(machine, plan.list[i], list[i], named);
      break;
    }
    case OutputPlan::kUndefined: machine.open.code(Output::kUndefined); break;
    default: machine.open.code(Output::kAlias);
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

// Numbers the call, and reports it to the binding if call sites are kept. This happens when the call is recorded, but
// before it is sent, so that an error finds the call's site. The caller holds the lock.
void announce(const Caller& caller, Arguments arguments, c10::ArrayRef<c10::IValue> outputs) {
  auto& machine = *caller.machine;
  caller.call = ++machine.calls;
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

// Without the lock: the binding's logging may take long, or may use the machine.
void log_call(const Caller& caller) {
  if (!caller.text.empty()) {
    callbacks().trace(caller.machine->handle, caller.call, caller.text.c_str());
    caller.text.clear();
  }
}

using Outputs = c10::SmallVector<c10::IValue, 4>;

// Records a call whose plan is known. The caller holds the lock.
void record_planned(const Caller& caller, Arguments arguments, const Plan& plan, Outputs& outputs) {
  auto& machine = *caller.machine;
  check_resizable(caller.info, arguments, plan);
  for (const auto& output : plan.outputs) {
    outputs.push_back(make_output(machine, caller.slot, output, arguments));
  }
  if (caller.info.only_views) {
    return;
  }
  machine.write_settings(caller.info, caller.settings);
  auto index = machine.wire_index(caller.info);
  NamedTensors named;
  machine.open.code(Record::kCall);
  machine.open.varint(index);
  for (const auto& argument : arguments) machine.write_argument(argument, named);
  for (size_t i = 0; i < plan.outputs.size(); i++) write_output(machine, plan.outputs[i], outputs[i], named);
  machine.open.varint(plan.resized.size());
  resize_written(caller.info, arguments, plan, [&](uint32_t which, const at::Tensor& t) {
    auto meta = TensorMeta::of(t);
    meta.offset += byte_shift(t, *context_of(t)) / static_cast<int64_t>(t.element_size());
    machine.open.varint(which);
    meta.write(machine.open);
  });
  announce(caller, arguments, outputs);
  machine.end_record();
}

// Outputs that are parts of storages, each with one of its own in its place. The node would make a part larger by making its
// storage larger, and the program would refuse that when the values are written.
using StandIns = std::vector<std::pair<at::Tensor, at::Tensor>>;

StandIns put_stand_ins(const OperatorInfo& info, c10::ArrayRef<c10::IValue> arguments, c10::IValue* stack) {
  StandIns all;
  for (auto index : info.overwritten) {
    if (!arguments[index].isTensor()) continue;
    const auto part = arguments[index].toTensor();
    if (!part.has_storage() || !is_part(*part.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl())) continue;
    for (size_t i = 0; i < arguments.size() && info.always_ask; i++) {  // libtorch's own: they take no such output
      if (i == index) continue;
      each_tensor(arguments[i], [&](const at::Tensor& t) {
        if (t.defined()) at::assert_no_overlap(part, t);
      });
    }
    all.emplace_back(part, at::empty_strided(part.sizes(), part.strides(), part.options()));
    stack[index] = all.back().second;
  }
  return all;
}

// Makes the parts what the operator has made of their stand-ins: none where one does not fit.
void take_over(const StandIns& all, torch::jit::Stack& stack, size_t results) {
  for (const auto& [part, own] : all) {
    auto after = TensorMeta::of(own);
    after.offset = part.storage_offset();
    auto* storage = part.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
    if (after.bytes() > storage->nbytes()) whole_storage(storage);
  }
  for (const auto& [part, own] : all) {
    part.unsafeGetTensorImpl()->set_sizes_and_strides(own.sizes(), own.strides(), part.storage_offset());
    at::AutoDispatchBelowADInplaceOrView guard;
    part.copy_(own);
    for (auto result = stack.end() - static_cast<int64_t>(results); result != stack.end(); ++result) {
      if (result->isTensor() && result->toTensor().is_same(own)) *result = part;
    }
  }
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

// Lets the node run the call, and learns from it what the call returned.
Plan ask(const Caller& caller, Arguments arguments, int64_t request) {
  auto& machine = *caller.machine;
  {
    Machine::Lock lock(machine);
    machine.begin_record();
    machine.write_settings(caller.info, caller.settings);
    auto index = machine.wire_index(caller.info);
    NamedTensors named;
    machine.open.code(Record::kAsk);
    machine.open.varint(index);
    machine.open.varint(request);
    for (const auto& argument : arguments) machine.write_argument(argument, named);
    announce(caller, arguments, {});
    machine.operations.fetch_add(1, std::memory_order_relaxed);
    machine.submit_open_batch(request);
  }
  log_call(caller);
  try {
    return read_answer(caller.info, arguments, machine.await_outputs(request));
  } catch (const WireError& e) {
    raise("ProtocolException", caller.info.full_name + ": the node's answer is malformed " + e.what());
  }
}

}  // namespace

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

void record_call(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& info = operator_info(op);
  auto base = stack->size() - info.arguments;
  Caller caller(info);
  locate(caller, *stack, base);
  auto& machine = *caller.machine;
  Arguments arguments(stack->data() + base, info.arguments);
  Outputs outputs;
  if (info.check != nullptr) {
    NoWarnings none;
    bool loud = info.warns_at_call && callbacks().warns;
    c10::WarningUtils::WarningHandlerGuard quiet(loud ? c10::WarningUtils::get_warning_handler() : &none);
    info.check(arguments);
  }

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
    bool inferred = !ask_always && infer(info, arguments, *plan);
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
      *plan = ask(caller, arguments, request);
      resize_written(info, arguments, *plan, [](uint32_t, const at::Tensor&) {});
      for (const auto& output : plan->outputs) {
        outputs.push_back(make_output(machine, caller.slot, output, arguments));
      }
      std::vector<at::Tensor> fresh;
      for (size_t i = 0; i < plan->outputs.size(); i++) collect_new(plan->outputs[i], outputs[i], fresh);
      if (!fresh.empty()) {
        Machine::Lock lock(machine);
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
    }
  }
  log_call(caller);
  if (!names.empty()) name_results(names, outputs);
  torch::jit::drop(*stack, info.arguments);
  for (auto& output : outputs) stack->push_back(std::move(output));
}

}  // namespace remora
