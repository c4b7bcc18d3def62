// SPDX-License-Identifier: AGPL-3.0-or-later
#include "common/operators.h"

#include <ATen/core/enum_tag.h>
#include <c10/util/flat_hash_map.h>

#include <mutex>
#include <sstream>
#include <unordered_set>

namespace remora {

namespace {

// Operators whose output sizes depend on values although their schemas carry no tag for it.
const std::unordered_set<std::string> kValueDependent = {"aten::linalg_lstsq",
                                                         "aten::segment_reduce",
                                                         "aten::_segment_reduce_backward",
                                                         "aten::histogram",
                                                         "aten::_histogramdd_bin_edges",
                                                         "aten::_assert_async",
                                                         "aten::_functional_assert_async",
                                                         "aten::_linalg_check_errors",
                                                         "aten::_unique",
                                                         "aten::_rowwise_prune"};

// Operators that read tensors and refuse some values of their Scalar arguments before they compute anything.
const std::unordered_set<std::string> kChecksScalars = {"aten::elu_backward",
                                                        "aten::leaky_relu_backward",
                                                        "aten::linalg_vector_norm",
                                                        "aten::norm",
                                                        "aten::pow",
                                                        "aten::pow_",
                                                        "aten::renorm",
                                                        "aten::renorm_",
                                                        "aten::softshrink"};

// Operators that overwrite all of their first argument.
const std::unordered_set<std::string> kFill = {
    "aten::zero_",      "aten::fill_",        "aten::copy_",   "aten::normal_",     "aten::uniform_",  "aten::random_",
    "aten::bernoulli_", "aten::exponential_", "aten::cauchy_", "aten::log_normal_", "aten::geometric_"};

std::mutex declared_mutex;
std::unordered_set<std::string>& declared_fixed() {
  static auto* names = new std::unordered_set<std::string>();
  return *names;
}

// Names of operators with an overload whose output depends on values. Only functional overloads carry the tags; the
// same applies to their out= overloads.
const std::unordered_set<std::string>& dynamic_names() {
  static const auto* names = [] {
    auto* result = new std::unordered_set<std::string>();
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const auto& name : dispatcher.getRegistrationsForDispatchKey(std::nullopt)) {
      auto handle = dispatcher.findSchema(name);
      if (handle && (handle->hasTag(at::Tag::dynamic_output_shape) || handle->hasTag(at::Tag::data_dependent_output))) {
        result->insert(name.name);
      }
    }
    return result;
  }();
  return *names;
}

// See warns_at_call().
const std::unordered_set<std::string> kWarnAtCall = {"aten::index", "aten::_index_put_impl_", "aten::put_",
                                                     "aten::random_"};

// Operators built from matrix products or convolutions, by parts of their names.
bool has_products(const std::string& name) {
  for (const char* part : {"mm", "mv", "matmul", "dot", "conv", "linear", "attention", "lstm", "gru", "rnn", "addr",
                           "inner", "einsum", "cdist", "linalg", "matrix", "multi_head"}) {
    if (name.find(part) != std::string::npos) return true;
  }
  return false;
}

bool holds_tensors(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::TensorType) {
    return true;
  }
  for (const auto& inner : type->containedTypes()) {
    if (holds_tensors(inner)) {
      return true;
    }
  }
  return false;
}

bool is_generator(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::GeneratorType) {
    return true;
  }
  auto optional = type->cast<c10::OptionalType>();
  return optional && optional->getElementType()->kind() == c10::TypeKind::GeneratorType;
}

}  // namespace

OperatorInfo::OperatorInfo(const c10::OperatorHandle& op) : handle(op) {
  const auto& schema = op.schema();
  name = schema.name();
  overload = schema.overload_name();
  full_name = overload.empty() ? name : name + "." + overload;
  std::ostringstream text;
  text << schema;
  schema_hash = fnv1a(text.str().data(), text.str().size());
  arguments = schema.arguments().size();

  bool reads_tensors = false;
  for (uint32_t i = 0; i < arguments; i++) {
    const auto& argument = schema.arguments()[i];
    const auto* alias = argument.alias_info();
    if (alias != nullptr && alias->isWrite()) {
      written.push_back(i);
    } else if (holds_tensors(argument.type())) {
      reads_tensors = true;
    }
    if (is_generator(argument.type())) {
      generator_argument = static_cast<int32_t>(i);
    }
  }
  values_matter = !reads_tensors || kChecksScalars.count(name) > 0;

  bool all_views = !schema.returns().empty();
  for (const auto& result : schema.returns()) {
    const auto* alias = result.alias_info();
    int32_t kind = kNew;
    int32_t viewed = -1;
    if (!holds_tensors(result.type())) {
      kind = kValue;
      always_ask = true;
    } else if (alias != nullptr) {
      for (uint32_t i = 0; i < arguments; i++) {
        const auto* source = schema.arguments()[i].alias_info();
        if (source == nullptr) {
          continue;
        }
        bool same = false;
        for (const auto& symbol : alias->beforeSets()) {
          same = same || source->beforeSets().count(symbol) > 0;
        }
        if (same && alias->isWrite() && source->isWrite()) {
          kind = static_cast<int32_t>(i);
          break;
        }
        if (same && !alias->isWrite()) {
          kind = kView;
          viewed = static_cast<int32_t>(i);
          break;
        }
      }
    }
    makes_views = makes_views || kind == kView;
    all_views = all_views && kind == kView;
    returns.push_back(kind);
    view_of.push_back(viewed);
  }
  only_views = all_views && written.empty();
  of_pytorch = name.rfind("aten::", 0) == 0;
  for (auto index : written) {
    // Operators fill their out= arguments, except those that only allocate.
    bool out = schema.arguments()[index].kwarg_only() && of_pytorch && name.find("empty") == std::string::npos;
    if (out || (index == 0 && kFill.count(name) > 0)) overwritten.push_back(index);
  }
  bool on_each_device = name.rfind("aten::_foreach_", 0) == 0 && returns.empty();
  mixes_devices = !of_pytorch || on_each_device || name == "aten::copy_";
  {
    std::lock_guard<std::mutex> guard(declared_mutex);
    answers_hold = of_pytorch || declared_fixed().count(name) > 0;
  }
  // The lengths that decide its sizes are numbers among the arguments. Its other overload has them in tensors.
  bool lengths_are_numbers = full_name == "aten::_ctc_loss";
  bool dynamic = !lengths_are_numbers && (kValueDependent.count(name) > 0 || dynamic_names().count(name) > 0);
  if (name == "aten::index") {
    masks_matter = true;
  } else {
    always_ask = always_ask || dynamic;
  }
  has_meta_kernel = op.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta);
  multiplies = has_products(name);
  needs_grad_mode = name == "aten::mkldnn_rnn_layer";
  check = check_of(full_name);
  warns_at_call = remora::warns_at_call(name);
  draws_random_numbers = generator_argument < 0 && op.hasTag(at::Tag::nondeterministic_seeded);
}

void OperatorInfo::write_definition(Writer& w) const {
  w.string(name);
  w.string(overload);
  w.u64(schema_hash);
  w.varint(arguments);
  w.varint(returns.size());
  w.varint(written.size());
  for (auto index : written) w.varint(index);
}

bool warns_at_call(const std::string& full_name) {
  return kWarnAtCall.count(full_name.substr(0, full_name.find('.'))) > 0;
}

void declare_fixed_shapes(const std::string& name) {
  std::lock_guard<std::mutex> guard(declared_mutex);
  declared_fixed().insert(name);
}

namespace {

// The known operators, by the address of their schemas. An operator of a torch.library can be removed, and another one
// can then get its address.
struct KnownOperators {
  std::mutex mutex;
  std::unordered_map<const void*, std::unique_ptr<OperatorInfo>> all;
  std::vector<std::unique_ptr<OperatorInfo>> gone;  // a machine or a session may still refer to them
  std::atomic<uint64_t> removals{0};
  uint32_t next_index = 0;
};

KnownOperators& known_operators() {
  struct Listener final : c10::OpRegistrationListener {
    explicit Listener(KnownOperators& known) : known(known) {}
    void onOperatorRegistered(const c10::OperatorHandle&) override {}
    void onOperatorDeregistered(const c10::OperatorHandle& op) override {
      std::lock_guard<std::mutex> guard(known.mutex);
      auto it = known.all.find(&op.schema());
      if (it == known.all.end()) {
        return;
      }
      it->second->gone.store(true, std::memory_order_release);
      known.gone.push_back(std::move(it->second));
      known.all.erase(it);
      known.removals.fetch_add(1, std::memory_order_release);
    }
    KnownOperators& known;
  };
  static auto* known = [] {  // never destroyed: operators are also removed when the process exits
    auto* made = new KnownOperators();
    new c10::RegistrationHandleRAII(
        c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Listener>(*made)));
    return made;
  }();
  return *known;
}

}  // namespace

OperatorInfo& operator_info(const c10::OperatorHandle& op) {
  static thread_local ska::flat_hash_map<const void*, OperatorInfo*> seen;
  static thread_local uint64_t seen_removals = 0;
  auto& known = known_operators();
  auto removals = known.removals.load(std::memory_order_acquire);
  if (C10_UNLIKELY(removals != seen_removals)) {
    seen.clear();
    seen_removals = removals;
  }
  const void* key = &op.schema();
  auto it = seen.find(key);
  if (it != seen.end()) {
    return *it->second;
  }
  auto fresh = std::make_unique<OperatorInfo>(op);  // without the lock: the dispatcher takes it under its own lock
  std::lock_guard<std::mutex> guard(known.mutex);
  auto& info = known.all[key];
  if (!info) {
    info = std::move(fresh);
    info->index = known.next_index++;
  }
  seen[key] = info.get();
  return *info;
}

OperatorInfo* find_operator(const std::string& name, const std::string& overload) {
  auto handle = c10::Dispatcher::singleton().findSchema({name, overload});
  return handle.has_value() ? &operator_info(*handle) : nullptr;
}

}  // namespace remora
