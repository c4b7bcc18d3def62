// SPDX-License-Identifier: AGPL-3.0-or-later
#include "node/executor.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <c10/core/TensorOptions.h>
#include <c10/util/Exception.h>
#include <c10/util/ScopeExit.h>

#include <algorithm>
#include <functional>
#include <mutex>

#include "node/call.h"
#include "node/freed_memory.h"
#include "node/held_transfers.h"

namespace remora {

namespace {

// Collects libtorch's warnings on this thread.
struct CollectedWarnings final : c10::WarningHandler {
  explicit CollectedWarnings(std::vector<c10::Warning>& list) : list(list) {}
  void process(const c10::Warning& warning) override {
    if (list.size() < kMaxWarnings) list.push_back(warning);
  }
  std::vector<c10::Warning>& list;
};

// Operators that have no kernel for any accelerator: libtorch's only one reads and writes the tensors' memory from the
// host, whatever device they are on, which ends the process.
bool only_for_the_host(const std::string& name) {
  static const std::unordered_set<std::string> names = {"aten::_grid_sampler_2d_cpu_fallback",
                                                        "aten::_grid_sampler_2d_cpu_fallback_backward",
                                                        "aten::_nnpack_spatial_convolution",
                                                        "aten::_rowwise_prune",
                                                        "aten::_saturate_weight_to_fp16",
                                                        "aten::_sobol_engine_draw",
                                                        "aten::_sobol_engine_ff_",
                                                        "aten::_sobol_engine_initialize_state_",
                                                        "aten::_sobol_engine_scramble_",
                                                        "aten::choose_qparams_optimized",
                                                        "aten::range.out_"};
  return names.count(name) > 0 || names.count(name.substr(0, name.find('.'))) > 0 ||
         name.rfind("aten::fbgemm_", 0) == 0;
}

// Whether the program may want to know how long a record took. Calls are noted by themselves.
bool takes_time(Record record) {
  return record == Record::kWrite || record == Record::kRead || record == Record::kQuestion || record == Record::kRun ||
         record == Record::kCallNode;
}

}  // namespace

Settings Executor::first_settings() {
  auto settings = Settings::of_program();
  settings.add_precision();
  return settings;
}

Executor::Executor(std::vector<c10::Device> devices, std::unordered_set<std::string> denied)
    : devices_(std::move(devices)), denied_(std::move(denied)), memory_(devices_.size()) {
  keep_freed_memory();
  for (auto device : devices_) {
    dispatch_keys_.push_back(c10::computeDispatchKey(std::nullopt, c10::kStrided, device));
  }
  settings_ = first_settings();
}

Executor::~Executor() { drop_transfers(this); }

// ---------------------------------------------------------------- a batch

std::unique_ptr<ExecutionResult> Executor::execute(const uint8_t* data, size_t bytes) {
  auto result = std::make_unique<ExecutionResult>();
  result_ = result.get();
  born_.clear();
  freed_.clear();
  warned_.clear();
  detail_ = 0;
  result->report.u8(kReportMagic);
  result->report.u8(kWireVersion);

  struct Release {
    SettingsLease& lease;
    ~Release() { lease.release(); }
  } release{lease_};
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  at::NoGradGuard no_grad;
  CollectedWarnings warnings(warnings_);
  c10::WarningUtils::WarningHandlerGuard collect(&warnings);
  Reader r(data, bytes);
  reader_ = &r;
  if (r.u8() != kBatchMagic) {
    r.fail("the input is not a batch");
  }
  auto version = r.u8();
  if (version != kWireVersion) {
    r.fail("the batch has wire version " + std::to_string(version) + ", this node uses " +
           std::to_string(kWireVersion));
  }
  while (!r.done()) {
    auto record = r.u8();
    switch (static_cast<Record>(record)) {
      case Record::kDefineOperator: define_operator(r); break;
      case Record::kCall: call(r); break;
      case Record::kAsk: ask(r); break;
      case Record::kRepeat: repeat(r); break;
      case Record::kLike: like(r); break;
      case Record::kForget: forget(); break;
      case Record::kMark:
        result->mark = r.zigzag();
        if (!r.done()) r.fail("records follow a mark");
        break;
      case Record::kRestart: restart(r); break;
      case Record::kTimed: begin_times(r); break;
      case Record::kBind: bind(r); break;
      case Record::kFree: {
        operands_.assign({read_storage(r, newest_)});
        auto mode = Mode::kRelative;
        free(*keep(nullptr, &mode, operands_));
        break;
      }
      case Record::kFreeMany: free_many(r); break;
      case Record::kWrite: write(r); break;
      case Record::kRead: read(r); break;
      case Record::kResize: resize(r); break;
      case Record::kSeed: {
        auto id = r.varint();
        auto device = r.bounded(devices_.size() - 1, "a device");
        auto& g = generator(id, device);
        std::lock_guard<std::mutex> guard(g.mutex());
        g.set_current_seed(r.varint());
        break;
      }
      case Record::kQuestion: question(r); break;
      case Record::kRecordEvent: record_event(r); break;
      case Record::kRun: run(r, Callee::kWorker); break;
      case Record::kCallNode: run(r, Callee::kNode); break;
      case Record::kFreeEvent: events_.erase(r.varint()); break;
      case Record::kTold: told_ = std::max(told_, r.varint()); break;
      case Record::kDropTransfer: drop_transfer(r.string(), this); break;
      case Record::kWriteRandomState: {
        auto id = r.varint();
        auto device = r.bounded(devices_.size() - 1, "a device");
        auto size = r.count("a generator state's size");
        auto state = at::empty({static_cast<int64_t>(size)}, at::TensorOptions().dtype(at::kByte));
        copy_bytes(state.mutable_data_ptr(), r.raw(size), size);
        try {
          generator(id, device).set_state(state);
        } catch (const std::exception& e) {
          Call none;
          none.name = "Generator.set_state";
          fail(none, e);
        }
        break;
      }
      case Record::kFreeGenerator: generators_.erase(r.varint()); break;
      case Record::kSettings: settings_ = Settings::read(r); break;
      default: r.fail("unknown record " + std::to_string(record));
    }
    if (detail_ > 1 && takes_time(static_cast<Record>(record))) note_time(static_cast<Record>(record));
  }

  auto& report = result->report;
  std::vector<int64_t> alive;
  for (auto id : born_) {
    auto* storage = storages_.find(id);
    if (storage != nullptr && !storage->reported) {
      storage->reported = true;
      alive.push_back(id);
    }
  }
  if (!alive.empty()) {
    report.code(remora::Event::kRealized);
    report.varint(alive.size());
    for (auto id : alive) {
      const auto& storage = *storages_.find(id);
      report.varint(id);
      report.varint(storage.memory ? storage.memory.nbytes() : storage.bytes);
      report.varint(storage.device);
    }
  }
  if (!freed_.empty()) {
    report.code(remora::Event::kFreed);
    report.varint(freed_.size());
    for (auto id : freed_) report.varint(id);
  }
  if (detail_ > 0) write_times();
  result_ = nullptr;
  return result;
}

void Executor::define_operator(Reader& r) {
  auto index = r.bounded(kMaxOperators - 1, "an operator's number");
  if (index != operators_.size()) {
    r.fail("expected operator number " + std::to_string(operators_.size()) + ", got " + std::to_string(index));
  }
  WireOperator op;
  auto start = r.position();
  std::string name(r.string());
  std::string overload(r.string());
  auto hash = r.u64();
  op.arguments = r.bounded(kMaxArguments, "a count of arguments");
  op.returns = r.bounded(kMaxArguments, "a count of returns");
  for (auto n = r.count("a count of written arguments"); n > 0; n--) {
    op.written.push_back(static_cast<uint32_t>(r.bounded(kMaxArguments, "an argument's number")));
  }
  op.definition = r.since(start);
  op.name = overload.empty() ? name : name + "." + overload;
  op.info = find_operator(name, overload);
  if (op.info == nullptr) {
    op.refusal = "the node has no operator " + op.name +
                 "; if a library defines it, add the library to the node's remora.node.operator-libraries";
  } else if (op.info->schema_hash != hash) {
    op.refusal =
        "operator " + op.name +
        " has a different schema on the node than in the program; install the same version of its library on both";
    op.info = nullptr;
  } else if (op.arguments != op.info->arguments || op.returns != op.info->returns.size() ||
             op.written != op.info->written) {
    r.fail("operator " + op.name + " does not match the node's schema of it");
  }
  if (denied_.count(name) || denied_.count(op.name) || denied_.count(name.substr(0, name.find("::")) + "::*")) {
    op.refusal = op.name + " is not allowed on this node (remora.node.denied-operators)";
  } else if (!devices_[0].is_cpu() && only_for_the_host(op.name)) {
    op.refusal = op.name + " computes in the host's memory only, and the tensors are on " + devices_[0].str() +
                 ": compute it in the program, on tensors that .cpu() returns";
  }
  operators_.push_back(std::move(op));
}

// ---------------------------------------------------------------- running a call

namespace {

// An operator that uses libtorch's default generator must draw from the session's generator. This class puts the
// session's state into the default generator for the call and takes it back afterwards. Sessions take turns.
class BorrowedDefaultGenerator {
 public:
  BorrowedDefaultGenerator(c10::Device device, at::Generator& session) : turn_(turns()), session_(session) {
    shared_ = device.is_cpu() ? at::detail::getDefaultCPUGenerator() : at::globalContext().defaultGenerator(device);
    saved_ = shared_.get_state();
    shared_.set_state(session_.get_state());
  }
  ~BorrowedDefaultGenerator() {
    session_.set_state(shared_.get_state());
    shared_.set_state(saved_);
  }

 private:
  static std::mutex& turns() {
    static std::mutex mutex;
    return mutex;
  }

  std::unique_lock<std::mutex> turn_;
  at::Generator& session_;
  at::Generator shared_;
  at::Tensor saved_;
};

}  // namespace

// Returns false, with the call's failure set, if the operator did not complete.
bool Executor::run(Call& call) {
  if (!call.failure && call.refusal.empty()) {
    warnings_.clear();
    auto tell = c10::make_scope_exit([&] {
      for (const auto& warning : warnings_) write_warning(call, warning);
    });
    try {
      c10::OptionalDeviceGuard guard;
      if (!devices_[call.device].is_cpu()) guard.reset_device(devices_[call.device]);
      auto seeded = call.info->generator_argument;
      if (seeded >= 0 && call.stack[seeded].isNone()) {
        call.stack[seeded] = generator(call.device, call.device);
      }
      std::optional<at::AutoGradMode> gradients;
      if (call.info->needs_grad_mode) gradients.emplace(true);
      lease_.acquire(settings_);
      if (call.info->draws_random_numbers) {
        BorrowedDefaultGenerator borrowed(devices_[call.device], generator(call.device, call.device));
        call.info->handle.callBoxed(call.stack);
      } else {
        call.info->handle.callBoxed(call.stack);
      }
      TORCH_CHECK(call.stack.size() == call.info->returns.size(), "the operator returned ", call.stack.size(),
                  " values, not ", call.info->returns.size());
      return true;
    } catch (const std::bad_alloc&) {
      call.refuse("the node is out of memory", "OutOfMemoryError");
    } catch (const std::exception& e) {
      call.refuse(e);
    }
  }
  if (!call.failure) {
    for (const auto& [id, storage, t] : call.inputs) {
      if (call.described.size() < 16) {
        call.described.push_back((t.defined() ? describe(t.scalar_type(), t.sizes(), t.strides()) : "?") + "#" +
                                 std::to_string(id));
      }
    }
    call.failure = fail_refused(call);
  }
  return false;
}

// Makes the arguments and runs the operator. Returns false, with the call's failure set, if it did not complete.
bool Executor::run_prepared(Call& call) {
  auto& prepared = *call.prepared;
  auto& op = operators_[prepared.operation];
  if (op.info != nullptr && op.info->gone.load(std::memory_order_acquire)) {
    op.info = nullptr;
    op.refusal = "the library of operator " + op.name + " was unloaded on the node";
  }
  call.stack.swap(stack_);
  call.info = op.info;
  call.name = op.name;
  call.number = ++calls_;
  if (!op.refusal.empty()) {
    call.refuse(op.refusal);
  }
  for (auto& form : prepared.arguments) {
    call.overwrites = form.overwrites;
    call.stack.push_back(argument(form, call));
  }
  if (op.info && !prepared.checked) {
    // The kinds of the arguments are the same in all calls of the form.
    const auto& schema = op.info->handle.schema().arguments();
    for (size_t i = 0; i < call.stack.size() && prepared.refusal.empty(); i++) {
      if (!fits(call.stack[i], schema[i].type())) {
        prepared.refusal = "argument '" + schema[i].name() + "' is a " + call.stack[i].tagKind() + ", not a " +
                           schema[i].type()->str();
      }
    }
    prepared.checked = true;
  }
  if (!prepared.refusal.empty()) {
    call.refuse(prepared.refusal);
  }
  bool ran = run(call);
  lease_.yield();
  return ran;
}

void Executor::execute(PreparedCall& prepared, const int64_t* operands) {
  Call call;
  call.prepared = &prepared;
  call.operands = operands;
  bool ran = run_prepared(call);
  if (!ran) {
    call.stack.assign(prepared.outputs.size(), c10::IValue());
  }
  for (size_t i = 0; i < prepared.outputs.size(); i++) output(prepared.outputs[i], call, call.stack[i]);
  if (ran) {
    check_written(call);
  }
  finish(call);
  if (detail_ > 1) note_time(Record::kCall);
}

void Executor::ask(Reader& r) {
  auto request = static_cast<int64_t>(r.varint());
  auto prepared = prepare(r, true);
  read_operands(r, *prepared);
  note_newest(*prepared, operands_.data());
  Call call;
  call.prepared = prepared.get();
  call.operands = operands_.data();
  bool ran = run_prepared(call);
  Writer answer;
  std::vector<at::Tensor> bound;
  if (ran) {
    try {
      check_places(call);
      for (auto number : prepared->written) {
        if (number >= 0) TensorMeta::of(call.inputs[number].tensor).write(answer);
      }
      for (size_t i = 0; i < call.info->returns.size(); i++) {
        answer_output(call, answer, call.stack[i], call.info->returns[i], bound);
      }
    } catch (const std::exception& e) {
      call.failure = fail(call, e);
    }
  }
  if (call.failure) {
    request_failed(request, *call.failure);
  } else {
    answered(request, answer.data(), answer.size(), remora::Event::kOutputs);
    if (!bound.empty()) {
      asked_[request] = std::move(bound);
    }
  }
  finish(call);
  if (detail_ > 1) note_time(Record::kCall);
}

// Says of the written storages whether they have values now.
void Executor::finish(Call& call) {
  for (auto number : call.prepared->written) {
    if (number < 0) continue;
    auto& storage = *call.inputs[number].storage;
    if (call.failure) {
      spoil(storage, call.failure);
    } else {
      storage.failure = nullptr;
      storage.has_values = true;
    }
  }
  call.stack.clear();
  call.stack.swap(stack_);
}

}  // namespace remora
