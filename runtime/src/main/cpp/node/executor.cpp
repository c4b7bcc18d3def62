// SPDX-License-Identifier: AGPL-3.0-or-later
#include "node/executor.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <c10/util/ScopeExit.h>

#include <algorithm>
#include <functional>
#include <mutex>

#include "common/error.h"
#include "common/torch_version.h"
#include "node/held_transfers.h"

namespace remora {

namespace {

// PyTorch's own class of an error, as its Python binding names it.
const char* error_class(const std::exception& error) {
  if (dynamic_cast<const c10::IndexError*>(&error)) return "IndexError";
  if (dynamic_cast<const c10::ValueError*>(&error)) return "ValueError";
  if (dynamic_cast<const c10::TypeError*>(&error)) return "TypeError";
  if (dynamic_cast<const c10::NotImplementedError*>(&error)) return "NotImplementedError";
  if (dynamic_cast<const c10::LinAlgError*>(&error)) return "LinAlgError";
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error)) return "OutOfMemoryError";
  return "RuntimeError";
}

// The allocator of a CUDA device: libtorch has an interface for it since 2.9, and knows the device's size since 2.10.
#if REMORA_TORCH >= 209
void cuda_memory(c10::Device device, Writer& answer) {
  auto* cache = c10::getDeviceAllocator(device.type());
  auto stats = cache->getDeviceStats(device.index());
  for (const auto& stat : {stats.allocated_bytes[0], stats.reserved_bytes[0]}) {
    answer.varint(stat.current);
    answer.varint(stat.peak);
  }
#if REMORA_TORCH >= 210
  answer.varint(cache->getMemoryInfo(device.index()).second);
#else
  answer.varint(0);
#endif
}
// What the driver has left, and what the allocator keeps for reuse; 0 where not known.
uint64_t available_memory(c10::Device device) {
#if REMORA_TORCH >= 210
  if (!device.is_cpu()) {
    auto* cache = c10::getDeviceAllocator(device.type());
    auto stats = cache->getDeviceStats(device.index());
    return cache->getMemoryInfo(device.index()).first +
        static_cast<uint64_t>(stats.reserved_bytes[0].current - stats.allocated_bytes[0].current);
  }
#endif
  return 0;
}
void empty_cache(c10::Device device) { c10::getDeviceAllocator(device.type())->emptyCache(); }
void reset_peak(c10::Device device) { c10::getDeviceAllocator(device.type())->resetPeakStats(device.index()); }
#else
[[noreturn]] void cuda_memory(c10::Device, Writer&) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "libtorch " TORCH_VERSION " does not tell of the memory of CUDA devices, 2.9 does");
}
uint64_t available_memory(c10::Device) { return 0; }
void empty_cache(c10::Device device) {
  Writer none;
  cuda_memory(device, none);
}
void reset_peak(c10::Device device) { empty_cache(device); }
#endif

}  // namespace

// A call, from its first byte to its bound outputs. Decoding never throws for what only concerns this call: it notes
// the failure and goes on, so that the records behind it are found.
struct Executor::Call {
  OperatorInfo* info = nullptr;
  std::string name;
  uint64_t number = 0;                     // among the session's calls
  torch::jit::Stack stack;
  std::shared_ptr<Failure> failure;
  std::string refusal;                     // becomes a failure of its own once the inputs are known
  std::string refusal_error;               // its class, as Failure's
  TensorMeta previous;
  bool has_previous = false;
  c10::SmallVector<std::pair<int64_t, at::Tensor>, 6> inputs;  // by storage id, in order
  c10::SmallVector<int64_t, 6> written;    // storage ids
  struct Written {
    at::Tensor tensor;
    TensorMeta expected;
    int64_t storage;
  };
  std::vector<Written> written_tensors;
  std::vector<const c10::StorageImpl*> adopted;
  uint32_t device = 0;
  bool device_known = false;
  bool overwrites = false;                 // the argument being decoded: its old values do not matter
  std::vector<std::string> described;

  void refuse(const std::string& why, const char* error = "") {
    if (refusal.empty()) {
      refusal = why;
      refusal_error = error;
    }
  }
  void refuse(const std::exception& e) { refuse(error_text(e), error_class(e)); }
};

Executor::Executor(std::vector<c10::Device> devices, std::unordered_set<std::string> denied)
    : devices_(std::move(devices)), denied_(std::move(denied)), memory_(devices_.size()) {
  settings_ = Settings::of_program();
  settings_.add_precision();
}

Executor::~Executor() { drop_transfers(this); }

int64_t Executor::storage_bytes() const {
  int64_t bytes = 0;
  for (const auto& [id, storage] : storages_) {
    if (storage.memory) {
      bytes += static_cast<int64_t>(storage.memory.nbytes());
    }
  }
  return bytes;
}

c10::Allocator* Executor::allocator(uint32_t device) const { return c10::GetAllocator(devices_[device].type()); }

// ---------------------------------------------------------------- a batch

std::unique_ptr<ExecutionResult> Executor::execute(const uint8_t* data, size_t bytes) {
  auto result = std::make_unique<ExecutionResult>();
  result_ = result.get();
  born_.clear();
  freed_.clear();
  warned_.clear();
  last_id_ = 0;
  result->report.u8(kReportMagic);
  result->report.u8(kWireVersion);

  struct Release {
    SettingsLease& lease;
    ~Release() { lease.release(); }
  } release{lease_};
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  at::NoGradGuard no_grad;
  Reader r(data, bytes);
  if (r.u8() != kBatchMagic) {
    r.fail("this is not a batch");
  }
  auto version = r.u8();
  if (version != kWireVersion) {
    r.fail("the batch has wire version " + std::to_string(version) + ", this node speaks " +
           std::to_string(kWireVersion));
  }
  while (!r.done()) {
    auto record = r.u8();
    switch (static_cast<Record>(record)) {
      case Record::kDefineOperator: define_operator(r); break;
      case Record::kCall: call(r, false); break;
      case Record::kAsk: call(r, true); break;
      case Record::kBind: bind(r); break;
      case Record::kFree: free(r); break;
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
      case Record::kFreeEvent:
        events_.erase(r.varint());
        break;
      case Record::kTold:
        told_ = std::max(told_, r.varint());
        break;
      case Record::kDropTransfer:
        drop_transfer(r.string(), this);
        break;
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
      case Record::kFreeGenerator:
        generators_.erase(r.varint());
        break;
      case Record::kSettings: settings_ = Settings::read(r); break;
      default:
        r.fail("unknown record " + std::to_string(record));
    }
  }

  auto& report = result->report;
  std::vector<int64_t> alive;
  for (auto id : born_) {
    auto it = storages_.find(id);
    if (it != storages_.end() && !it->second.reported) {
      it->second.reported = true;
      alive.push_back(id);
    }
  }
  if (!alive.empty()) {
    report.code(remora::Event::kRealized);
    report.varint(alive.size());
    for (auto id : alive) {
      const auto& storage = storages_.find(id)->second;
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
  result_ = nullptr;
  return result;
}

// ---------------------------------------------------------------- questions and events

// Where the program has an event or a generator for the first time. It holds itself to the limit.
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
  lease_.release();  // what follows may wait for another session
  auto request = static_cast<int64_t>(r.varint());
  auto kind = static_cast<Question>(r.u8());
  if (kind == Question::kHoldTransfer || kind == Question::kFetchTransfer) {
    transfer(r, request, kind);
    return;
  }
  auto device_argument = [&] { return static_cast<uint32_t>(r.bounded(devices_.size() - 1, "a device")); };
  Writer answer;
  Call call;
  call.name = "question " + std::to_string(static_cast<int>(kind));
  // All arguments are read before anything can fail.
  uint64_t first = 0;
  uint64_t second = 0;
  switch (kind) {
    case Question::kRandomState:
      first = r.varint();
      second = device_argument();
      break;
    case Question::kSynchronizeEvent:
      first = r.varint();
      break;
    case Question::kElapsed:
      first = r.varint();
      second = r.varint();
      break;
    case Question::kSynchronize:
    case Question::kMemory:
    case Question::kEmptyCache:
    case Question::kResetPeakMemory:
      first = device_argument();
      break;
    default:
      r.fail("unknown question " + std::to_string(static_cast<int>(kind)));
  }
  try {
    switch (kind) {
      case Question::kRandomState: {
        auto state = generator(first, static_cast<uint32_t>(second)).get_state().contiguous();
        answer.raw(state.const_data_ptr(), state.nbytes());
        break;
      }
      case Question::kSynchronize:
        if (!devices_[first].is_cpu()) {
          c10::impl::VirtualGuardImpl(devices_[first].type()).synchronizeDevice(devices_[first].index());
        }
        break;
      case Question::kSynchronizeEvent: {
        auto it = events_.find(first);
        if (it != events_.end() && it->second.device) {
          it->second.device->synchronize();
        }
        break;
      }
      case Question::kElapsed:
        answer.f64(elapsed(first, second));
        break;
      case Question::kMemory: {
        for (auto& [id, storage] : storages_) account(storage);
        auto device = devices_[first];
        if (device.is_cpu()) {
          const auto& memory = memory_[first];
          for (auto bytes : {memory.allocated, memory.peak, memory.allocated, memory.peak, uint64_t{0}}) {
            answer.varint(bytes);
          }
        } else {
          cuda_memory(device, answer);
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
          reset_peak(devices_[first]);
        }
        break;
      case Question::kHoldTransfer:
      case Question::kFetchTransfer:
        break;  // see transfer()
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
    r.fail("a transfer of something that is no tensor");
  }
  auto t = tensor(r, bits, call, false);
  if (!call.failure && call.refusal.empty()) {
    try {
      TORCH_CHECK(t.is_contiguous() && !t.is_conj() && !t.is_neg(), "only contiguous tensors are transferred");
      TORCH_CHECK(static_cast<uint64_t>(t.nbytes()) <= kMaxTransferBytes, "a transfer has at most ", kMaxTransferBytes,
                  " bytes, not ", t.nbytes());
      c10::DeviceGuard guard(devices_[call.device]);
      auto transferred =
          holding ? hold_for_transfer(ticket, t, temporary, this) : fetch_transfer(ticket, address, t);
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

void Executor::define_operator(Reader& r) {
  auto index = r.bounded(kMaxOperators - 1, "an operator's number");
  if (index != operators_.size()) {
    r.fail("operators are numbered one after the other: expected " + std::to_string(operators_.size()) + ", got " +
           std::to_string(index));
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
                 "; a library that has it can be named in the node's remora.node.operator-libraries";
  } else if (op.info->schema_hash != hash) {
    op.refusal = "operator " + op.name +
                 " has another schema on the node than in the program; use the same version of its library on both sides";
    op.info = nullptr;
  } else if (op.arguments != op.info->arguments || op.returns != op.info->returns.size() ||
             op.written != op.info->written) {
    r.fail("operator " + op.name + " is not what its schema says");
  }
  if (denied_.count(name) || denied_.count(op.name) || denied_.count(name.substr(0, name.find("::")) + "::*")) {
    op.refusal = op.name + " is not allowed on this node (remora.node.denied-operators)";
  }
  operators_.push_back(std::move(op));
}

// ---------------------------------------------------------------- storages

int64_t Executor::next_id(Reader& r) {
  int64_t id = 0;
  if (__builtin_add_overflow(last_id_, r.zigzag(), &id) || id <= 0) {
    r.fail("storage " + std::to_string(id) + " cannot be");
  }
  last_id_ = id;
  return id;
}

Executor::Storage& Executor::born(int64_t id, uint64_t bytes, uint32_t device) {
  auto& storage = storages_[id];
  account(storage, true);  // a hostile batch may name a storage twice
  storage = Storage();
  storage.bytes = bytes;
  storage.device = device;
  born_.push_back(id);
  return storage;
}

// Keeps the count of allocated bytes, and its peak, up to date with one storage.
void Executor::account(Storage& storage, bool gone) {
  uint64_t now = gone || !storage.memory ? 0 : storage.memory.nbytes();
  if (now != storage.accounted) {
    auto& memory = memory_[storage.device];
    memory.allocated += now - storage.accounted;
    memory.peak = std::max(memory.peak, memory.allocated);
    storage.accounted = now;
  }
}

void Executor::realize(Storage& storage) {
  if (storage.memory) {
    return;
  }
  c10::DeviceGuard guard(devices_[storage.device]);
  storage.memory = c10::Storage(c10::Storage::use_byte_size_t(), static_cast<int64_t>(storage.bytes),
                                allocator(storage.device), true);
  account(storage);
}

bool Executor::lacks_values(Storage& storage) {
  if (storage.failure && storage.has_values && (storage.failure->told || storage.failure->number <= told_)) {
    storage.failure = nullptr;
  }
  return storage.failure != nullptr;
}

void Executor::spoil(Storage& storage, std::shared_ptr<Failure> failure) {
  storage.failure = std::move(failure);
  storage.rewritten = 0;
}

// A storage by id, or a new one: kWrite, kResize and kBind name storages so.
Executor::Storage& Executor::storage_record(Reader& r, int64_t* id) {
  auto is_new = r.u8() != 0;
  *id = next_id(r);
  if (is_new) {
    auto device = r.bounded(2 * devices_.size() - 1, "a device") / 2;
    auto bytes = r.bounded(kMaxStorageBytes, "a storage's size");
    return born(*id, bytes, static_cast<uint32_t>(device));
  }
  auto it = storages_.find(*id);
  if (it == storages_.end()) {
    r.fail("storage " + std::to_string(*id) + " is not on this node");
  }
  return it->second;
}

void Executor::free(Reader& r) {
  auto it = storages_.find(next_id(r));
  if (it == storages_.end()) {
    r.fail("storage " + std::to_string(last_id_) + " is freed but not on this node");
  }
  if (it->second.reported) {
    freed_.push_back(it->first);
  }
  account(it->second, true);
  storages_.erase(it);
}

void Executor::resize(Reader& r) {
  int64_t id = 0;
  auto& storage = storage_record(r, &id);
  auto bytes = r.bounded(kMaxStorageBytes, "a storage's size");
  if (!storage.memory || storage.memory.nbytes() == bytes) {
    storage.bytes = bytes;
    return;
  }
  try {
    c10::DeviceGuard guard(devices_[storage.device]);
    auto options = at::TensorOptions().dtype(at::kByte).device(devices_[storage.device]);
    auto old = at::empty({0}, options).set_(storage.memory);
    auto grown = at::empty({static_cast<int64_t>(bytes)}, options);
    auto kept = std::min<int64_t>(old.numel(), static_cast<int64_t>(bytes));
    grown.narrow(0, 0, kept).copy_(old.narrow(0, 0, kept));
    storage.memory = grown.storage();
    storage.bytes = bytes;
    account(storage);
  } catch (const std::exception& e) {
    Call none;
    none.name = "resize_";
    storage.has_values = false;  // they do not reach as far as the program thinks
    spoil(storage, fail(none, e));
  }
}

void Executor::write(Reader& r) {
  int64_t id = 0;
  auto& storage = storage_record(r, &id);
  auto offset = r.bounded(kMaxStorageBytes, "an offset");
  auto bytes = r.count("an upload's size");
  auto* data = r.raw(bytes);
  Call call;
  call.name = "upload";
  try {
    realize(storage);
    TORCH_CHECK(offset + bytes <= storage.memory.nbytes(), "the upload ends at byte ", offset + bytes,
                ", the storage at ", storage.memory.nbytes());
    auto device = devices_[storage.device];
    if (device.is_cpu()) {
      copy_bytes(static_cast<uint8_t*>(storage.memory.mutable_data()) + offset, data, bytes);
    } else {
      auto target = at::empty({0}, at::TensorOptions().dtype(at::kByte).device(device))
                        .set_(storage.memory, static_cast<int64_t>(offset), {static_cast<int64_t>(bytes)}, {1});
      target.copy_(at::from_blob(const_cast<uint8_t*>(data), {static_cast<int64_t>(bytes)},
                                 at::TensorOptions().dtype(at::kByte)));
    }
  } catch (const std::exception& e) {
    spoil(storage, fail(call, e));
    return;
  }
  if (lacks_values(storage) && (offset == 0 || offset == storage.rewritten)) {
    storage.rewritten = offset + bytes;
    if (storage.rewritten == storage.memory.nbytes()) storage.failure = nullptr;
  }
  storage.has_values = storage.has_values || !storage.failure;
}

// ---------------------------------------------------------------- decoding a call

at::Tensor Executor::tensor(Reader& r, uint8_t bits, Call& call, bool output) {
  auto id = next_id(r);
  uint64_t new_bytes = 0;
  uint32_t device = 0;
  bool exact = true;
  if (bits & kNew) {
    auto code = r.bounded(2 * devices_.size() - 1, "a device");
    device = static_cast<uint32_t>(code / 2);
    exact = code & 1;
    if (!exact) {
      new_bytes = r.bounded(kMaxStorageBytes, "a storage's size");
    }
  }
  TensorMeta meta;
  if (bits & kSameMeta) {
    if (!call.has_previous) {
      r.fail("a record's first tensor cannot be like the one before it");
    }
    meta = call.previous;
  } else {
    meta.dtype = r.dtype();
    auto dims = r.count("a tensor's dimensions");
    meta.sizes.resize(dims);
    meta.strides.resize(dims);
    for (auto& size : meta.sizes) size = static_cast<int64_t>(r.bounded(INT64_MAX, "a size"));
    if (bits & kStrided) {
      for (auto& stride : meta.strides) {
        stride = r.zigzag();
        if (stride < 0) r.fail("a stride is negative");
      }
    } else {
      uint64_t stride = 1;
      for (size_t i = dims; i-- > 0;) {
        meta.strides[i] = static_cast<int64_t>(stride);
        stride *= static_cast<uint64_t>(std::max<int64_t>(meta.sizes[i], 1));
      }
    }
    if (bits & kOffset) {
      meta.offset = static_cast<int64_t>(r.bounded(kMaxStorageBytes, "an offset"));
    }
    call.previous = meta;
    call.has_previous = true;
  }
  meta.conj = bits & kConj;
  meta.neg = bits & kNeg;

  auto covered = meta.end();
  if ((output || (bits & kNew)) && covered > kMaxStorageBytes) {
    r.fail("a new tensor covers more bytes than a storage can have");
  }

  if (output) {
    // The caller binds it; only its metadata and name matter here.
    call.previous = meta;
    call.previous.conj = call.previous.neg = false;
    call.inputs.emplace_back(id, at::Tensor());
    call.device = device;
    return {};
  }
  if (bits & kNew) {
    born(id, exact ? covered : new_bytes, device);
  }
  auto it = storages_.find(id);
  if (it == storages_.end()) {
    r.fail("storage " + std::to_string(id) + " is not on this node");
  }
  auto& storage = it->second;
  if (!call.device_known) {
    call.device = storage.device;
    call.device_known = true;
  }
  if (lacks_values(storage)) {
    auto all = storage.memory ? storage.memory.nbytes() : storage.bytes;
    bool filled = call.overwrites && covered == all && meta.offset == 0 && meta.is_dense();
    if (!filled) {
      if (!call.failure) call.failure = storage.failure;
      call.inputs.emplace_back(id, at::Tensor());
      return {};
    }
  }
  at::Tensor t;
  try {
    realize(storage);
    if (covered > storage.memory.nbytes()) {
      call.refuse("a tensor ends at byte " + std::to_string(covered) + " of storage " + std::to_string(id) +
                  ", which has " + std::to_string(storage.memory.nbytes()));
    } else {
      auto key = devices_[storage.device].is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::CUDA;
      t = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage.memory), c10::DispatchKeySet(key),
                                                   c10::scalarTypeToTypeMeta(meta.dtype));
      t.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes, meta.strides, meta.offset);
      if (meta.conj) t._set_conj(true);
      if (meta.neg) t._set_neg(true);
    }
  } catch (const std::exception& e) {
    call.refuse(e);
  }
  call.inputs.emplace_back(id, t);
  return t;
}

c10::IValue Executor::argument(Reader& r, Call& call, const c10::TypePtr& type, int depth) {
  auto tag = r.u8();
  if (tag & kTensor) {
    return tensor(r, tag, call, false);
  }
  auto one_tensor = [&]() -> at::Tensor {
    auto value = argument(r, call, c10::TensorType::get(), depth + 1);
    if (!value.isTensor()) r.fail("a tensor was expected");
    return value.toTensor();
  };
  if (depth > kMaxNesting) {
    r.fail("arguments nested too deep");
  }
  switch (static_cast<Tag>(tag)) {
    case Tag::kNone:
      return {};
    case Tag::kUndefined:
      return at::Tensor();
    case Tag::kWrapped: {
      auto t = one_tensor();
      if (t.defined()) t.unsafeGetTensorImpl()->set_wrapped_number(true);
      return t;
    }
    case Tag::kSameTensor: {
      // Some operators look whether their output is their input, and resizing the one resizes the other.
      auto number = r.varint();
      if (number >= call.inputs.size()) r.fail("a call has no tensor " + std::to_string(number) + " yet");
      auto same = call.inputs[number];  // a copy: the list may move when it grows
      call.inputs.push_back(same);
      return same.second;
    }
    case Tag::kScalarTensor: {
      auto dtype = r.dtype();
      auto wrapped = r.u8() != 0;
      if (c10::isQIntType(dtype)) r.fail("a scalar of a quantized dtype");
      auto t = at::empty({}, at::TensorOptions().dtype(dtype));
      std::memcpy(t.mutable_data_ptr(), r.raw(t.element_size()), t.element_size());
      if (wrapped) t.unsafeGetTensorImpl()->set_wrapped_number(true);
      return t;
    }
    case Tag::kInt:
      return r.zigzag();
    case Tag::kUnsigned:
      return c10::Scalar(r.varint());
    case Tag::kDouble:
      return r.f64();
    case Tag::kTrue:
      return true;
    case Tag::kFalse:
      return false;
    case Tag::kComplex: {
      double real = r.f64();
      return c10::complex<double>(real, r.f64());
    }
    case Tag::kString:
      return std::string(r.text());
    case Tag::kDevice: {
      auto device = r.bounded(devices_.size(), "a device");
      if (device == 0) return c10::Device(c10::kCPU);
      if (!call.device_known) {
        call.device = static_cast<uint32_t>(device - 1);
        call.device_known = true;
      }
      return devices_[device - 1];
    }
    case Tag::kTensorList: {
      std::vector<at::Tensor> list;
      for (auto n = r.count("a list's length"); n > 0; n--) list.push_back(one_tensor());
      return list;
    }
    case Tag::kOptionalTensorList: {
      c10::List<std::optional<at::Tensor>> list;
      for (auto n = r.count("a list's length"); n > 0; n--) {
        auto t = one_tensor();
        list.push_back(t.defined() ? std::optional<at::Tensor>(t) : std::nullopt);
      }
      return list;
    }
    case Tag::kIntList: {
      std::vector<int64_t> list;
      for (auto n = r.count("a list's length"); n > 0; n--) list.push_back(r.zigzag());
      return list;
    }
    case Tag::kDoubleList: {
      std::vector<double> list;
      for (auto n = r.count("a list's length"); n > 0; n--) list.push_back(r.f64());
      return list;
    }
    case Tag::kBoolList: {
      c10::List<bool> list;
      for (auto n = r.count("a list's length"); n > 0; n--) list.push_back(r.u8() != 0);
      return list;
    }
    case Tag::kList: {
      auto list_type = type->cast<c10::ListType>();
      if (auto optional = type->cast<c10::OptionalType>()) {
        list_type = optional->getElementType()->cast<c10::ListType>();
      }
      auto n = r.count("a list's length");
      if (!list_type) {  // of an operator that is not here: the call fails
        call.refuse("a list where the operator has none");
        for (; n > 0; n--) argument(r, call, c10::AnyType::get(), depth + 1);
        return {};
      }
      c10::impl::GenericList list(list_type->getElementType());
      for (; n > 0; n--) list.push_back(argument(r, call, list_type->getElementType(), depth + 1));
      return list;
    }
    case Tag::kGenerator: {
      auto id = r.varint();
      auto device = r.bounded(devices_.size() - 1, "a device");
      return generator(id, static_cast<uint32_t>(device));
    }
    default:
      r.fail("unknown argument " + std::to_string(tag));
  }
}

// An argument whose kind the operator's schema does not allow would be misread by its kernel.
static bool fits(const c10::IValue& value, const c10::TypePtr& type) {
  if (auto optional = type->cast<c10::OptionalType>()) {
    return value.isNone() || fits(value, optional->getElementType());
  }
  switch (type->kind()) {
    case c10::TypeKind::TensorType: return value.isTensor();
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: return value.isInt();
    case c10::TypeKind::FloatType: return value.isDouble();
    case c10::TypeKind::BoolType: return value.isBool();
    case c10::TypeKind::ComplexType: return value.isComplexDouble();
    case c10::TypeKind::NumberType: return value.isScalar() || value.isUnsigned();
    case c10::TypeKind::StringType: return value.isString();
    case c10::TypeKind::DeviceObjType: return value.isDevice();
    case c10::TypeKind::GeneratorType: return value.isGenerator();
    case c10::TypeKind::ListType: {
      auto element = type->cast<c10::ListType>()->getElementType();
      switch (element->kind()) {
        case c10::TypeKind::TensorType: return value.isTensorList();
        case c10::TypeKind::IntType:
        case c10::TypeKind::SymIntType: return value.isIntList();
        case c10::TypeKind::FloatType: return value.isDoubleList();
        case c10::TypeKind::BoolType: return value.isBoolList();
        case c10::TypeKind::OptionalType: return value.isOptionalTensorList() || value.isList();
        default: {
          if (!value.isList()) return false;
          for (const auto& each : value.toListRef()) {
            if (!fits(each, element)) return false;
          }
          return true;
        }
      }
    }
    default:
      // Layout, memory format and dtype travel as integers.
      return value.isInt();
  }
}

// ---------------------------------------------------------------- running a call

std::shared_ptr<Failure> Executor::fail(Call& call, const std::exception& error) {
  return fail(call, error_text(error), error_class(error));
}

std::shared_ptr<Failure> Executor::fail_refused(Call& call) { return fail(call, call.refusal, call.refusal_error); }

std::shared_ptr<Failure> Executor::fail(Call& call, const std::string& message, const std::string& error) {
  auto failure = std::make_shared<Failure>();
  failure->number = ++failures_;
  failure->call = call.number;
  failure->operation = call.name;
  failure->error = error;
  failure->message = message;
  failure->inputs = call.described;
  result_->report.code(remora::Event::kFailure);
  write_failure(*failure);
  return failure;
}

void Executor::write_failure(const Failure& failure) {
  auto& report = result_->report;
  report.varint(failure.number);
  report.varint(failure.call);
  report.string(failure.operation);
  report.string(failure.error);
  report.string(failure.message);
  auto inputs = std::min<size_t>(failure.inputs.size(), 64);
  report.varint(inputs);
  for (size_t i = 0; i < inputs; i++) report.string(failure.inputs[i]);
}

// One that repeats is told once in a batch.
void Executor::write_warning(const Call& call, const c10::Warning& warning) {
  auto text = warning.msg().substr(0, kMaxWarningBytes);
  auto known = call.name + ": " + text;
  if (warned_.size() >= kMaxWarnings || std::find(warned_.begin(), warned_.end(), known) != warned_.end()) {
    return;
  }
  warned_.push_back(std::move(known));
  auto& report = result_->report;
  report.code(remora::Event::kWarning);
  report.varint(call.number);
  report.string(call.name);
  report.code(std::holds_alternative<c10::DeprecationWarning>(warning.type()) ? WarningKind::kDeprecation
                                                                             : WarningKind::kUser);
  report.string(text);
}

// To a question, a call or a function that was asked.
void Executor::answered(int64_t request, const void* data, size_t bytes) {
  result_->report.code(remora::Event::kAnswer);
  result_->report.varint(request);
  result_->report.varint(bytes);
  result_->report.raw(data, bytes);
}

void Executor::refuse(int64_t request, Call& call) {
  if (!call.failure) {
    call.failure = fail_refused(call);
  }
  request_failed(request, *call.failure);
}

void Executor::request_failed(int64_t request, Failure& failure) {
  failure.told = true;
  result_->report.code(remora::Event::kRequestFailed);
  result_->report.varint(request);
  write_failure(failure);
}

at::Generator& Executor::generator(uint64_t id, uint32_t device) {
  auto& generator = generators_[id];
  if (generators_.size() > kMaxGenerators) {
    throw WireError("there are more than " + std::to_string(kMaxGenerators) + " generators");
  }
  if (!generator.defined()) {
    generator = devices_[device].is_cpu()
        ? at::make_generator<at::CPUGeneratorImpl>(c10::default_rng_seed_val)
        : at::globalContext().getAcceleratorHooksInterface(devices_[device].type())
              .getNewGenerator(devices_[device].index());
  }
  return generator;
}

namespace {

// Operators that draw from libtorch's default generator draw from the session's instead: its state is put in place
// for the call and taken back afterwards. Sessions take turns.
class BorrowedDefaultGenerator {
 public:
  BorrowedDefaultGenerator(c10::Device device, at::Generator& session) : turn_(turns()), session_(session) {
    shared_ = device.is_cpu() ? at::detail::getDefaultCPUGenerator()
                              : at::globalContext().defaultGenerator(device);
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

namespace {

// What libtorch warns of on this thread.
struct CollectedWarnings final : c10::WarningHandler {
  void process(const c10::Warning& warning) override {
    if (list.size() < kMaxWarnings) list.push_back(warning);
  }
  std::vector<c10::Warning> list;
};

}  // namespace

// False, with the call's failure set, when the operator did not run to its end.
bool Executor::run(Call& call) {
  if (!call.failure && call.refusal.empty()) {
    CollectedWarnings warnings;
    auto tell = c10::make_scope_exit([&] {
      for (const auto& warning : warnings.list) write_warning(call, warning);
    });
    c10::WarningUtils::WarningHandlerGuard collect(&warnings);
    try {
      c10::DeviceGuard guard(devices_[call.device]);
      auto seeded = call.info->generator_argument;
      if (seeded >= 0 && call.stack[seeded].isNone()) {
        call.stack[seeded] = generator(call.device, call.device);
      }
      at::AutoGradMode gradients(call.info->needs_grad_mode);
      lease_.acquire(settings_);
      if (call.info->draws_random_numbers) {
        BorrowedDefaultGenerator borrowed(devices_[call.device], generator(call.device, call.device));
        call.info->handle.callBoxed(call.stack);
      } else {
        call.info->handle.callBoxed(call.stack);
      }
      TORCH_CHECK(call.stack.size() == call.info->returns.size(), "it returned ", call.stack.size(), " values, not ",
                  call.info->returns.size());
      return true;
    } catch (const std::bad_alloc&) {
      call.refuse("the node is out of memory", "OutOfMemoryError");
    } catch (const std::exception& e) {
      call.refuse(e);
    }
  }
  if (!call.failure) {
    for (const auto& [id, t] : call.inputs) {
      if (call.described.size() < 16) {
        call.described.push_back((t.defined() ? describe(t.scalar_type(), t.sizes(), t.strides()) : "?") + "#" +
                                 std::to_string(id));
      }
    }
    call.failure = fail_refused(call);
  }
  return false;
}

// The tensor itself where it has a storage of its own and the wanted layout, else a copy that has.
at::Tensor Executor::own(Call& call, const at::Tensor& actual, const TensorMeta* layout) {
  TORCH_CHECK_NOT_IMPLEMENTED(actual.layout() == c10::kStrided, "the result has layout ", actual.layout(), ": ",
                              kNotSparse);
  TORCH_CHECK_NOT_IMPLEMENTED(!actual.is_quantized(), "the result is quantized: ", kNotQuantized);
  auto t = actual._is_zerotensor() ? at::zeros(actual.sizes(), actual.options()) : actual;
  auto device = devices_[call.device];
  if (t.device() != device) {
    t = t.to(device);
  }
  auto* storage = t.storage().unsafeGetStorageImpl();
  bool shared = std::find(call.adopted.begin(), call.adopted.end(), storage) != call.adopted.end();
  for (const auto& [id, input] : call.inputs) {
    shared = shared || (input.defined() && input.storage().unsafeGetStorageImpl() == storage);
  }
  bool fits = !layout || (t.strides() == c10::IntArrayRef(layout->strides));
  if (shared || !fits || t.storage_offset() != 0 || storage->nbytes() < TensorMeta::of(t).bytes()) {
    auto strides = layout ? c10::IntArrayRef(layout->strides) : t.strides();
    auto copy = layout || t.is_non_overlapping_and_dense()
        ? at::empty_strided(t.sizes(), strides, t.options())
        : at::empty(t.sizes(), t.options());
    if (t.is_conj()) copy._set_conj(true);
    if (t.is_neg()) copy._set_neg(true);
    copy.copy_(t);
    t = copy;
  }
  call.adopted.push_back(t.storage().unsafeGetStorageImpl());
  return t;
}

void Executor::adopt(Call& call, int64_t id, uint32_t device, const TensorMeta& predicted, const at::Tensor& actual) {
  if (!call.failure) {
    try {
      TORCH_CHECK(actual.defined(), "the program expects ", describe(predicted), ", the operator returned no tensor");
      TORCH_CHECK(actual.scalar_type() == predicted.dtype && actual.sizes() == c10::IntArrayRef(predicted.sizes) &&
                      actual.is_conj() == predicted.conj && actual.is_neg() == predicted.neg,
                  "the program expects ", describe(predicted), ", the operator returned ",
                  describe(TensorMeta::of(actual)));
      auto t = own(call, actual, &predicted);
      auto& storage = born(id, t.storage().nbytes(), device);
      storage.memory = t.storage();
      storage.has_values = true;
      account(storage);
      return;
    } catch (const std::exception& e) {
      call.failure = fail(call, e);
    }
  }
  born(id, predicted.bytes(), device).failure = call.failure;
}

void Executor::outputs(Reader& r, Call& call, const c10::IValue& value, int depth) {
  auto code = r.u8();
  if (code & kTensor) {
    if (!(code & kNew)) r.fail("an output's storage must be new");
    auto known = call.device;
    tensor(r, code, call, true);
    auto [id, nothing] = call.inputs.back();
    call.inputs.pop_back();
    auto device = call.device;
    call.device = known;
    auto meta = call.previous;
    meta.conj = code & kConj;
    meta.neg = code & kNeg;
    adopt(call, id, device, meta, value.isTensor() ? value.toTensor() : at::Tensor());
    return;
  }
  switch (static_cast<Output>(code)) {
    case Output::kAlias:
      break;
    case Output::kUndefined:
      if (!call.failure && value.isTensor() && value.toTensor().defined()) {
        call.failure = fail(call, "the program expects no tensor, the operator returned " +
                                      describe(TensorMeta::of(value.toTensor())));
      }
      break;
    case Output::kList: {
      if (depth > 2) r.fail("outputs nested too deep");
      auto n = r.count("a list's length");
      bool fits = value.isTensorList() && value.toListRef().size() == n;
      if (!call.failure && !fits) {
        call.failure = fail(call, "the program expects a list of " + std::to_string(n) + " tensors");
      }
      for (uint64_t i = 0; i < n; i++) {
        outputs(r, call, fits ? value.toListRef()[i] : c10::IValue(), depth + 1);
      }
      break;
    }
    default:
      r.fail("unknown output " + std::to_string(code));
  }
}

static void each_tensor(const c10::IValue& value, const std::function<void(const at::Tensor&)>& visit) {
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isTensorList() || value.isOptionalTensorList()) {
    for (const auto& element : value.toListRef()) {
      if (element.isTensor()) visit(element.toTensor());
    }
  }
}

void Executor::call(Reader& r, bool asked) {
  auto index = r.varint();
  if (index >= operators_.size()) {
    r.fail("operator " + std::to_string(index) + " is not defined");
  }
  auto& op = operators_[index];
  int64_t request = asked ? static_cast<int64_t>(r.varint()) : 0;
  Call call;
  call.info = op.info;
  call.name = op.name;
  call.number = ++calls_;
  if (!op.refusal.empty()) {
    call.refuse(op.refusal);
  }
  for (size_t i = 0; i < op.arguments; i++) {
    auto first = call.inputs.size();
    const c10::TypePtr type = op.info ? op.info->handle.schema().arguments()[i].type() : c10::AnyType::get();
    call.overwrites = op.info && std::find(op.info->overwritten.begin(), op.info->overwritten.end(), i) !=
        op.info->overwritten.end();
    call.stack.push_back(argument(r, call, type));
    if (op.info && !fits(call.stack.back(), type)) {
      call.refuse("argument '" + op.info->handle.schema().arguments()[i].name() + "' is a " +
                  call.stack.back().tagKind() + ", not a " + type->str());
    }
    if (std::find(op.written.begin(), op.written.end(), i) != op.written.end()) {
      for (size_t k = first; k < call.inputs.size(); k++) call.written.push_back(call.inputs[k].first);
      auto next = first;
      each_tensor(call.stack.back(), [&](const at::Tensor& t) {
        auto known = t.defined() && next < call.inputs.size();
        call.written_tensors.push_back({t, t.defined() ? TensorMeta::of(t) : TensorMeta(),
                                        known ? call.inputs[next++].first : 0});
      });
    }
  }
  bool ran = run(call);
  lease_.yield();

  if (asked) {
    Writer answer;
    std::vector<at::Tensor> bound;
    if (ran) {
      try {
        check_places(call);
        for (const auto& written : call.written_tensors) {
          if (written.tensor.defined()) TensorMeta::of(written.tensor).write(answer);
        }
        for (size_t i = 0; i < op.info->returns.size(); i++) {
          answer_output(call, answer, call.stack[i], op.info->returns[i], bound);
        }
      } catch (const std::exception& e) {
        call.failure = fail(call, e);
      }
    }
    if (call.failure) {
      request_failed(request, *call.failure);
    } else {
      answered(request, answer.data(), answer.size());
      if (!bound.empty()) {
        asked_[request] = std::move(bound);
      }
    }
  } else {
    if (!ran) {
      call.stack.assign(op.returns, c10::IValue());
    }
    for (size_t i = 0; i < op.returns; i++) outputs(r, call, call.stack[i]);
    std::vector<std::pair<uint64_t, TensorMeta>> resized;
    for (auto n = r.count("a count of resized arguments"); n > 0; n--) {
      auto which = r.varint();
      resized.emplace_back(which, TensorMeta::read(r));
    }
    if (ran) {
      for (auto& [which, meta] : resized) {
        if (which < call.written_tensors.size()) call.written_tensors[which].expected = meta;
      }
      check_written(call);
    }
  }
  for (auto id : call.written) {
    auto it = storages_.find(id);
    if (it == storages_.end()) continue;
    if (call.failure) {
      spoil(it->second, call.failure);
    } else {
      it->second.failure = nullptr;
      it->second.has_values = true;
    }
  }
}

// What the operator wrote to must be where the program thinks it is: the program keeps its storages and offsets.
void Executor::check_places(const Call& call) {
  for (const auto& [t, expected, id] : call.written_tensors) {
    auto it = storages_.find(id);
    TORCH_CHECK(!t.defined() || (it != storages_.end() && t.storage_offset() == expected.offset &&
                                 t.storage().unsafeGetStorageImpl() == it->second.memory.unsafeGetStorageImpl()),
                "the operator put the written argument into other memory, where a remote tensor cannot follow");
  }
}

// It must look as the program thinks it does, too.
void Executor::check_written(Call& call) {
  try {
    check_places(call);
  } catch (const std::exception& e) {
    call.failure = fail(call, error_text(e));
  }
  for (const auto& [t, expected, id] : call.written_tensors) {
    if (!t.defined() || call.failure) {
      continue;
    }
    bool same_values = t.scalar_type() == expected.dtype && t.sizes() == c10::IntArrayRef(expected.sizes);
    bool same_layout = t.strides() == c10::IntArrayRef(expected.strides);
    if (same_values && same_layout) {
      continue;
    }
    auto it = storages_.find(id);
    if (same_values && it != storages_.end() && t.storage_offset() == 0 && expected.offset == 0 &&
        expected.bytes() == t.storage().nbytes()) {
      try {  // the operator chose another layout for the whole of its output: give it the expected one
        auto copy = at::empty_strided(expected.sizes, expected.strides, t.options());
        copy.copy_(t);
        it->second.memory = copy.storage();
        account(it->second);
        continue;
      } catch (const std::exception& e) {
        call.failure = fail(call, e);
        continue;
      }
    }
    if (it != storages_.end()) it->second.has_values = false;  // not those that the program thinks it has
    call.failure = fail(call, "the program expects the written argument to be " + describe(expected) +
                                  ", the operator made it " + describe(TensorMeta::of(t)));
  }
}

void Executor::answer_output(Call& call, Writer& w, const c10::IValue& value, int32_t kind,
                             std::vector<at::Tensor>& bound) {
  if (kind >= 0) {
    w.code(Answer::kAlias);
    w.varint(kind);
  } else if (value.isTensor()) {
    if (!value.toTensor().defined()) {
      w.code(Answer::kUndefined);
      return;
    }
    auto t = own(call, value.toTensor(), nullptr);
    w.code(Answer::kTensor);
    TensorMeta::of(t).write(w);
    w.varint(t.storage().nbytes());
    bound.push_back(t);
  } else if (value.isTensorList()) {
    w.code(Answer::kList);
    w.varint(value.toListRef().size());
    for (const auto& element : value.toListRef()) answer_output(call, w, element, OperatorInfo::kNew, bound);
  } else if (value.isInt()) {
    w.code(Answer::kInt);
    w.zigzag(value.toInt());
  } else if (value.isDouble()) {
    w.code(Answer::kDouble);
    w.f64(value.toDouble());
  } else if (value.isBool()) {
    w.code(Answer::kBool);
    w.u8(value.toBool() ? 1 : 0);
  } else if (value.isComplexDouble()) {
    w.code(Answer::kComplex);
    w.f64(value.toComplexDouble().real());
    w.f64(value.toComplexDouble().imag());
  } else if (value.isString()) {
    w.code(Answer::kString);
    w.string(value.toStringView());
  } else if (value.isNone()) {
    w.code(Answer::kNone);
  } else {
    TORCH_CHECK(false, "a result of kind ", value.tagKind(), " cannot be sent back");
  }
}

void Executor::bind(Reader& r) {
  auto request = static_cast<int64_t>(r.varint());
  auto n = r.count("a count of outputs");
  if (n == 0) {  // nobody has waited for the answer
    asked_.erase(request);
    return;
  }
  auto it = asked_.find(request);
  if (it == asked_.end() || it->second.size() != n) {
    r.fail("request " + std::to_string(request) + " has no " + std::to_string(n) + " outputs to name");
  }
  for (uint64_t i = 0; i < n; i++) {
    int64_t id = 0;
    auto& storage = storage_record(r, &id);
    storage.memory = it->second[i].storage();
    storage.bytes = storage.memory.nbytes();
    storage.has_values = true;
    account(storage);
  }
  asked_.erase(it);
}

void Executor::run(Reader& r, Callee callee) {
  lease_.release();  // what follows may wait for another session
  auto request = static_cast<int64_t>(r.varint());
  FunctionCall function;
  function.callee = callee;
  function.device = static_cast<uint32_t>(r.bounded(devices_.size() - 1, "a device"));
  function.timeout_millis = static_cast<int64_t>(r.bounded(kMaxRunMillis, "a time limit"));
  Call call;
  call.name = (callee == Callee::kWorker ? "remora.remote " : "") + std::string(r.string());
  auto bytes = r.count("a function's size");
  function.payload = {reinterpret_cast<const char*>(r.raw(bytes)), bytes};
  for (auto n = r.count("a count of tensors"); n > 0; n--) {
    auto bits = r.u8();
    if (bits == static_cast<uint8_t>(Tag::kWrapped)) {
      bits = r.u8();
    }
    if (!(bits & kTensor)) {
      r.fail("a function's argument is no tensor");
    }
    function.tensors.push_back(tensor(r, bits, call, false));
    function.tensor_devices.push_back(storages_.find(call.inputs.back().first)->second.device);
  }
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
    r.fail("a read of something that is no tensor");
  }
  auto t = tensor(r, bits, call, false);
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
        // It is sent after this batch, and later ones may write to it.
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
