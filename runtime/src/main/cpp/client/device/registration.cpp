// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The PyTorch backend "remora": device guard, hooks, random generators, and the kernels that are not simply recorded:
// those that only touch metadata, and those that move bytes.
#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/InferSize.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/TensorUtils.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/native/ResizeCommon.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/library.h>

#include <array>
#include <map>
#include <mutex>

#include "client/machine.h"
#include "client/transfer.h"
#include "common/torch_version.h"


namespace remora {

namespace {

thread_local int current = 0;

// Everything recorded is in one order, so a device has one stream: the default one.
struct RemoteGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kRemora; }
  c10::Device exchangeDevice(c10::Device device) const override {
    auto previous = remora_device(current);
    setDevice(device);
    return previous;
  }
  c10::Device getDevice() const override { return remora_device(current); }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() < kSlots, "device index ", static_cast<int>(device.index()),
                " is out of range: there are ", kSlots, " remora device slots");
    if (device.has_index()) {
      current = device.index();
    }
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) {
      current = device.index();
    }
  }
  // noexcept: as libtorch 2.6 wants it.
  c10::Stream getStream(c10::Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  bool queryStream(const c10::Stream& stream) const override {
    auto& machine = machine_of(stream.device());
    machine.flush();
    return machine.executed.load(std::memory_order_acquire) >= machine.sequence.load(std::memory_order_acquire);
  }
  void synchronizeStream(const c10::Stream& stream) const override { synchronizeDevice(stream.device_index()); }
  void synchronizeDevice(c10::DeviceIndex index) const override {
    int slot = 0;
    auto& machine = machine_of(remora_device(index), &slot);
    machine.question(Question::kSynchronize, {static_cast<uint64_t>(machine.device_of_slot(slot))});
  }

  // An event is a record in the operation stream; the node notes when it comes to it.
  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex index, c10::EventFlag) const override {
    auto device = remora_device(index < 0 ? stream.device_index() : index);
    auto& machine = machine_of(device);
    if (*event == nullptr) {
      *event = new RemoteEvent(machine);
    }
    record_event(*static_cast<RemoteEvent*>(*event), machine.device_of_slot(device.index()));
  }
  void block(void* event, const c10::Stream& stream) const override {
    // Work on one machine is in order anyway; another machine's work waits here for the event.
    auto* mark = static_cast<RemoteEvent*>(event);
    if (mark != nullptr && mark->machine != &machine_of(stream.device())) {
      synchronizeEvent(event);
    }
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || event_happened(*static_cast<RemoteEvent*>(event));
  }
  void synchronizeEvent(void* event) const override {
    if (auto* mark = static_cast<RemoteEvent*>(event)) {
      mark->machine->question(Question::kSynchronizeEvent, {static_cast<uint64_t>(mark->id)});
    }
  }
  double elapsedTime(void* first, void* second, const c10::DeviceIndex) const override {
    TORCH_CHECK(first != nullptr && second != nullptr, "both events must have been recorded before the time between ",
                "them can be measured");
    return event_elapsed(*static_cast<RemoteEvent*>(first), *static_cast<RemoteEvent*>(second));
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<RemoteEvent*>(event);
  }
  // Autograd's engine starts a thread for each device counted here and sizes its tables by it, so the number must
  // not grow after the first backward: all slots count, whether open or not.
  c10::DeviceIndex deviceCount() const noexcept override { return kSlots; }
#if REMORA_TORCH >= 210
  c10::DeviceCapability getDeviceCapability(c10::Device) const override {
    c10::DeviceCapability all;
    auto& types = all.capability_data.supported_scalar_types;
    types.has_QInt8 = types.has_QUInt8 = types.has_QInt32 = 0;
    return all;
  }
#endif
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, RemoteGuard);

// ---------------------------------------------------------------- random numbers

// A generator whose state lives on the node. Seeding it is a record in the operation stream, so that numbers do not
// depend on what was sent when.
struct RemoteGenerator final : c10::GeneratorImpl {
  RemoteGenerator(Machine& machine, int slot, int64_t id)
      : c10::GeneratorImpl(remora_device(slot), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        machine(machine),
        id(id),
        seed_(id < kSlots ? machine.first_seed : c10::default_rng_seed_val) {}
  ~RemoteGenerator() override {
    if (id >= kSlots) {
      machine.free_handle(Record::kFreeGenerator, id);
    }
  }
  int device_number() const { return machine.device_of_slot(device_.index()); }

  // torch::manual_seed() seeds every device: one whose machine is closed or has failed must not keep it from the
  // others. Whatever draws from that machine says what became of it.
  void set_current_seed(uint64_t seed) override {
    seed_ = seed;
    Machine::Lock lock(machine);
    if (id < kSlots && !machine.open_for_work()) {
      return;
    }
    machine.begin_record();
    machine.write_seed(id, device_number(), seed);
    machine.end_record(false);
  }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override {
    auto random = c10::detail::getNonDeterministicRandom();
    set_current_seed(random);
    return random;
  }
  // The state has it all. Python asks for an offset when it pickles a generator, and sets it again.
  void set_offset(uint64_t offset) override {
    TORCH_CHECK(offset == 0, "a remora generator has no offset; set its state instead");
  }
  uint64_t get_offset() const override { return 0; }
  void set_state(const c10::TensorImpl& state) override {
    at::detail::check_rng_state(state);
    auto bytes = static_cast<const uint8_t*>(state.data());
    Machine::Lock lock(machine);
    machine.begin_record();
    machine.open.code(Record::kWriteRandomState);
    machine.open.varint(id);
    machine.open.varint(device_number());
    machine.open.varint(state.numel());
    machine.open.raw(bytes, state.numel());
    machine.end_record(false);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto bytes = machine.question(Question::kRandomState, {static_cast<uint64_t>(id), static_cast<uint64_t>(device_number())});
    auto state = at::empty({static_cast<int64_t>(bytes.size())}, at::TensorOptions().dtype(at::kByte));
    std::memcpy(state.mutable_data_ptr(), bytes.data(), bytes.size());
    return state.getIntrusivePtr();
  }
  c10::GeneratorImpl* clone_impl() const override {
    auto* copy = new RemoteGenerator(machine, device_.index(), machine.next_generator());
    copy->seed_ = seed_;
    copy->set_state(*get_state());
    return copy;
  }

  Machine& machine;
  const int64_t id;

 private:
  uint64_t seed_;
};

// The default generator of a slot of its machine, its last machine's when that is closed. They stay for the life of the
// process, as machines do: libtorch keeps the reference.
const at::Generator& default_generator(int slot) {
  static std::mutex mutex;
  static auto* generators = new std::map<std::pair<int64_t, int>, at::Generator>();
  auto& machine = last_machine_of(slot);
  std::lock_guard<std::mutex> guard(mutex);
  auto& generator = (*generators)[{machine.handle, slot}];
  if (!generator.defined()) {
    generator = at::make_generator<RemoteGenerator>(machine, slot, machine.device_of_slot(slot));
  }
  return generator;
}

struct RemoteHooks final : at::PrivateUse1HooksInterface {
  // Of the interface since libtorch 2.7.
  bool isBuilt() const { return true; }
  bool isAvailable() const { return open_devices() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  // The indices that libtorch walks through, to seed every generator for example.
  c10::DeviceIndex deviceCount() const override { return static_cast<c10::DeviceIndex>(slots_in_use()); }
  void setCurrentDevice(c10::DeviceIndex index) const override { RemoteGuard().setDevice(remora_device(index)); }
  c10::DeviceIndex getCurrentDevice() const override { return static_cast<c10::DeviceIndex>(current); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return RemoteGuard().exchangeDevice(remora_device(index)).index();
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchangeDevice(index); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return at::getCPUAllocator(); }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::Device getDeviceFromPtr(void* data) const override { return device_of_address(data); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(index < 0 ? current : index);
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    int slot = index < 0 ? current : index;
    auto& machine = machine_of(remora_device(slot));
    return at::make_generator<RemoteGenerator>(machine, slot, machine.next_generator());
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    resize_storage(storage.unsafeGetStorageImpl(), bytes);
  }
};

// ---------------------------------------------------------------- factories

int slot_of(std::optional<c10::Device> device) {
  int slot = 0;
  machine_of(device.value_or(remora_device(current)), &slot);
  return slot;
}

// Whether the program wants memory that nobody has written to be the same each time: torch.utils.deterministic.
bool fills_memory() {
  const auto& context = at::globalContext();
  return C10_UNLIKELY(context.deterministicAlgorithms()) && context.deterministicFillUninitializedMemory();
}

at::Tensor make_empty(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<c10::ScalarType> dtype,
                      std::optional<c10::Layout> layout, std::optional<c10::Device> device,
                      std::optional<bool> pin_memory) {
  TORCH_CHECK_NOT_IMPLEMENTED(layout.value_or(c10::kStrided) == c10::kStrided,
                              kNotSparse);
  TORCH_CHECK(!pin_memory.value_or(false), "only CPU tensors can be pinned, not tensors of a remora device");
  at::detail::check_size_nonnegative(sizes);
  TensorMeta meta;
  meta.dtype = c10::dtype_or_default(dtype);
  TORCH_CHECK_NOT_IMPLEMENTED(!c10::isQIntType(meta.dtype), kNotQuantized);
  if (meta.dtype == c10::kComplexHalf) {
    TORCH_WARN_ONCE("ComplexHalf support is experimental and many operators don't support it yet.");
  }
  meta.sizes.assign(sizes.begin(), sizes.end());
  meta.strides.assign(strides.begin(), strides.end());
  int slot = slot_of(device);
  auto& machine = machine_of(remora_device(slot));
  machine.check_usable();
  auto made = new_tensor(machine, slot, meta, meta.bytes());
  if (fills_memory()) at::native::fill_empty_deterministic_(made);
  return made;
}

at::Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout> layout, std::optional<c10::Device> device,
                         std::optional<bool> pin_memory) {
  TORCH_CHECK(sizes.size() == strides.size(), "dimensionality of sizes (", sizes.size(),
              ") must match dimensionality of strides (", strides.size(), ")");
  return make_empty(sizes, strides, dtype, layout, device, pin_memory);
}

at::Tensor empty_memory_format(c10::IntArrayRef sizes, std::optional<c10::ScalarType> dtype,
                               std::optional<c10::Layout> layout, std::optional<c10::Device> device,
                               std::optional<bool> pin_memory, std::optional<c10::MemoryFormat> format) {
  auto wanted = format.value_or(c10::MemoryFormat::Contiguous);
  if (wanted == c10::MemoryFormat::ChannelsLast) {
    return make_empty(sizes, c10::get_channels_last_strides_2d(sizes), dtype, layout, device, pin_memory);
  }
  if (wanted == c10::MemoryFormat::ChannelsLast3d) {
    return make_empty(sizes, c10::get_channels_last_strides_3d(sizes), dtype, layout, device, pin_memory);
  }
  TORCH_CHECK(wanted == c10::MemoryFormat::Contiguous, "unsupported memory format ", wanted);
  at::detail::check_size_nonnegative(sizes);
  at::detail::computeStorageNbytesContiguous(sizes, c10::elementSize(c10::dtype_or_default(dtype)));  // may overflow
  return make_empty(sizes, c10::contiguous_strides(sizes), dtype, layout, device, pin_memory);
}

// libtorch's shortcut for gradients that are known to be zero: metadata alone. Its dispatch key ZeroTensor stands above
// this backend's and makes real zeros where an operator needs values.
at::Tensor efficient_zero_tensor(c10::IntArrayRef sizes, std::optional<c10::ScalarType> dtype,
                                 std::optional<c10::Layout>, std::optional<c10::Device> device, std::optional<bool>) {
  TensorMeta meta;
  meta.dtype = c10::dtype_or_default(dtype);
  meta.sizes.assign(sizes.begin(), sizes.end());
  auto strides = c10::contiguous_strides(sizes);
  meta.strides.assign(strides.begin(), strides.end());
  c10::Storage nothing(c10::Storage::use_byte_size_t(), static_cast<int64_t>(meta.bytes()),
                       c10::DataPtr(nullptr, remora_device(slot_of(device))), nullptr, false);
  auto t = at::detail::make_tensor<c10::TensorImpl>(
      std::move(nothing), c10::DispatchKeySet({c10::DispatchKey::PrivateUse1, c10::DispatchKey::ZeroTensor}),
      c10::scalarTypeToTypeMeta(meta.dtype));
  t.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes, meta.strides, 0);
  return t;
}

// Copying on the first write needs memory to watch: the whole storage is copied at once.
at::Tensor lazy_clone(const at::Tensor& self) {
  auto elements = static_cast<int64_t>(self.storage().nbytes() / self.element_size());
  return self.as_strided({elements}, {1}, 0).clone().as_strided(self.sizes(), self.strides(), self.storage_offset());
}

// ---------------------------------------------------------------- metadata only

void grow_storage(const at::Tensor& t, size_t bytes) {
  auto* storage = t.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
  if (bytes > storage->nbytes()) {
    TORCH_CHECK(storage->resizable(), "Trying to resize storage that is not resizable");
    resize_storage(storage, bytes);
  }
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef sizes, std::optional<c10::MemoryFormat> format) {
  if (self.sizes() == sizes && !format.has_value()) {
    return self;
  }
  at::detail::check_size_nonnegative(sizes);
  auto* impl = self.unsafeGetTensorImpl();
  auto before = TensorMeta::of(self);
  auto bytes_before = static_cast<int64_t>(self.storage().nbytes());
  try {
    impl->set_sizes_contiguous(sizes);
    if (format.has_value()) {
      TORCH_CHECK(*format != c10::MemoryFormat::Preserve, "unsupported memory format ", *format);
      impl->empty_tensor_restride(*format);
    }
    grow_storage(self, self.numel() == 0
                           ? 0
                           : at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.element_size(),
                                                              self.storage_offset()));
  } catch (...) {
    impl->set_sizes_and_strides(before.sizes, before.strides, before.offset);
    throw;
  }
  if (fills_memory()) at::native::fill_resize_deterministic_(self, bytes_before);
  return self;
}

at::Tensor& set_storage_at(at::Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef sizes,
                           c10::IntArrayRef strides) {
  if (strides.empty()) {
    strides = {};  // not given, which libtorch tells from the pointer
  }
  at::native::checkSetStorage(self, std::move(source), offset, sizes, strides);
  auto implied = sizes == self.sizes() ? c10::DimVector(self.strides()) : c10::contiguous_strides(sizes);
  self.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides.empty() ? c10::IntArrayRef(implied) : strides, offset);
  if (self.numel() > 0) {
    grow_storage(self, at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.element_size(), offset));
  }
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source) {
  auto elements = static_cast<int64_t>(source.nbytes() / self.element_size());
  return set_storage_at(self, std::move(source), 0, {elements}, {});
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  if (self.unsafeGetTensorImpl() == source.unsafeGetTensorImpl()) {
    return self;
  }
  return set_storage_at(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

at::Tensor& set_nothing(at::Tensor& self) {
  TensorMeta meta;
  meta.dtype = self.scalar_type();
  meta.sizes = {0};
  meta.strides = {1};
  int slot = self.device().index();
  auto fresh = new_tensor(machine_of(self.device()), slot, meta, 0);
  return set_storage_at(self, fresh.storage(), 0, {0}, {});
}

bool is_set_to(const at::Tensor& self, const at::Tensor& other) {
  return self.storage().unsafeGetStorageImpl() == other.storage().unsafeGetStorageImpl() &&
      self.storage_offset() == other.storage_offset() && self.sizes() == other.sizes() &&
      self.strides() == other.strides();
}

// libtorch's own list of backends whose tensors may take over each other's data (Module::to does so) is fixed.
bool has_compatible_shallow_copy_type(const at::Tensor& self, const at::Tensor& from) {
  auto is_dense = [](const at::Tensor& t) {
    auto device = t.device();
    return t.layout() == c10::kStrided && (device.type() == kRemora || device.is_cpu() || device.is_meta()) &&
        t.key_set().has_any(c10::DispatchKeySet(c10::DispatchKey::Dense));
  };
  return is_dense(self) && is_dense(from);
}

// A parameter without data may become a remote one; all else is as libtorch has it.
bool meta_has_compatible_shallow_copy_type(const at::Tensor& self, const at::Tensor& from) {
  return from.device().type() == kRemora
      ? has_compatible_shallow_copy_type(self, from)
      : self.unsafeGetTensorImpl()->has_compatible_shallow_copy_type(from.key_set());
}

void record_stream(at::Tensor&, c10::Stream) {}  // one stream: nothing to keep alive for another

// ---------------------------------------------------------------- moving bytes

constexpr int64_t kUploadChunk = 1024 * 1024;
constexpr int64_t kRelayChunk = 8 * 1024 * 1024;

// Sends `bytes` bytes to the storage of `target` from `offset` on, in chunks, so that other threads' operations and
// reads pass between them.
void write_bytes(const at::Tensor& target, int64_t offset, const uint8_t* data, int64_t bytes) {
  auto& storage = storage_of(target);
  auto& machine = *storage.machine;
  machine.check_usable(storage.id);
  offset += byte_shift(target, storage);
  for (int64_t done = 0; done < bytes;) {
    auto chunk = std::min(kUploadChunk, bytes - done);
    Machine::Lock lock(machine);
    machine.begin_record();
    machine.open.reserve(chunk + 64);
    machine.open.code(Record::kWrite);
    machine.write_storage(storage);
    machine.open.varint(offset + done);
    machine.open.varint(chunk);
    machine.open.raw(data + done, chunk);
    machine.uploaded.fetch_add(chunk, std::memory_order_relaxed);
    machine.end_record(done == 0);
    done += chunk;
  }
}

void copy_on_machine(const at::Tensor& source, const at::Tensor& target) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::copy_", "");
  torch::jit::Stack stack{target, source, false};
  record_call(op, {}, &stack);
}

void upload(const at::Tensor& source, const at::Tensor& target) {
  if (target.numel() == 0) {
    return;
  }
  bool smaller = source.element_size() < target.element_size();
  bool direct = target.is_non_overlapping_and_dense() && !target.is_conj() && !target.is_neg() &&
      (source.scalar_type() == target.scalar_type() || !smaller);
  if (!direct) {  // send what is there, and let the node place and convert it
    auto plain = source.resolve_conj().resolve_neg();
    auto staged = at::empty(plain.sizes(), plain.options().device(target.device()));
    upload(plain, staged);
    copy_on_machine(staged, target);
    return;
  }
  auto same = source.sizes() == target.sizes() && source.strides() == target.strides() &&
      source.scalar_type() == target.scalar_type() && !source.is_conj() && !source.is_neg();
  auto laid_out = source;
  if (!same) {
    laid_out = at::empty_strided(target.sizes(), target.strides(), source.options().dtype(target.scalar_type()));
    laid_out.copy_(source);
  }
  auto itemsize = static_cast<int64_t>(target.element_size());
  write_bytes(target, target.storage_offset() * itemsize, static_cast<const uint8_t*>(laid_out.const_data_ptr()),
              target.numel() * itemsize);
}

void download(const at::Tensor& source, const at::Tensor& target) {
  if (source.numel() == 0) {
    return;
  }
  auto sizes = source.sizes();
  bool direct = target.scalar_type() == source.scalar_type() && target.sizes() == sizes && target.is_contiguous() &&
      !target.is_conj() && !target.is_neg();
  auto received = direct ? target : at::empty(sizes, source.options().device(c10::kCPU));
  auto& machine = *storage_of(source).machine;
  auto [first, count] = record_read(source, received);
  for (auto request = first; request < first + count; request++) machine.await(request);
  if (!direct) {
    const_cast<at::Tensor&>(target).copy_(received);
  }
}

// From one machine to another: straight from node to node, or else by way of this process, a chunk at a time. The whole
// tensor is never here.
void copy_between_machines(const at::Tensor& source, const at::Tensor& target) {
  auto plain = source.resolve_conj().resolve_neg().contiguous().view(-1);
  auto direct = target.is_contiguous() && !target.is_conj() && !target.is_neg() &&
      target.scalar_type() == source.scalar_type() && target.sizes() == source.sizes();
  auto received = direct ? target : at::empty(source.sizes(), plain.options().device(target.device()));
  auto flat = received.view(-1);
  auto step = std::max<int64_t>(1, kRelayChunk / static_cast<int64_t>(plain.element_size()));
  bool temporary = context_of(plain) != context_of(source);
  for (auto start = copy_direct(plain, flat, temporary); start < plain.numel(); start += step) {
    auto length = std::min(step, plain.numel() - start);
    upload(plain.narrow(0, start, length).cpu(), flat.narrow(0, start, length));
  }
  if (!direct) {
    copy_on_machine(received, target);
  }
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool) {
  bool from_remote = source.device().type() == kRemora;
  bool to_remote = target.device().type() == kRemora;
  if (source.sizes() != target.sizes()) {
    auto sizes = at::infer_size(target.sizes(), source.sizes());
    TORCH_CHECK(target.sizes() == c10::IntArrayRef(sizes), "output with shape ", target.sizes(),
                " doesn't match the broadcast shape ", c10::IntArrayRef(sizes));
  }
  at::assert_no_internal_overlap(target);
  if (from_remote && to_remote) {
    if (source._is_zerotensor() || storage_of(source).machine == storage_of(target).machine) {
      copy_on_machine(source, target);
    } else {
      copy_between_machines(source, target);
    }
  } else if (to_remote) {
    TORCH_CHECK(source.device().is_cpu(), "cannot copy from ", source.device(), " to ", target.device(),
                " directly; use tensor.cpu() first");
    upload(source.sizes() == target.sizes() ? source : source.expand(target.sizes()), target);
  } else {
    TORCH_CHECK(target.device().is_cpu(), "cannot copy from ", source.device(), " to ", target.device(),
                " directly; use tensor.cpu() first");
    download(source, target);
  }
  return target;
}

at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  target.resize_(source.sizes());
  return copy_from(source, target, false);
}

c10::Scalar local_scalar_dense(const at::Tensor& self) {
  auto value = at::empty({}, self.options().device(c10::kCPU));
  download(self.dim() == 0 ? self : self.as_strided({}, {}), value);  // the first element
  return value.item();
}

}  // namespace

void record_event(RemoteEvent& event, int device) {
  auto& machine = *event.machine;
  Machine::Lock lock(machine);
  machine.begin_record();
  machine.open.code(Record::kRecordEvent);
  machine.open.varint(event.id);
  machine.open.varint(device);
  event.sequence = machine.sequence.load(std::memory_order_relaxed) + 1;
  machine.end_record(false);
}

bool event_happened(RemoteEvent& event) {
  event.machine->flush_for(event.sequence);
  return event.machine->executed.load(std::memory_order_acquire) >= event.sequence;
}

double event_elapsed(const RemoteEvent& first, const RemoteEvent& second) {
  TORCH_CHECK(first.machine == second.machine, "the events are of two machines, whose clocks are not comparable");
  auto answer = first.machine->question(Question::kElapsed,
                                        {static_cast<uint64_t>(first.id), static_cast<uint64_t>(second.id)});
  return Reader(reinterpret_cast<const uint8_t*>(answer.data()), answer.size()).f64();
}

int current_slot() { return current; }

int64_t generator_id(const at::Generator& generator) {
  return static_cast<RemoteGenerator*>(generator.unsafeGetGeneratorImpl())->id;
}

namespace {

// A node holds a copy of each value that it has not sent yet, and executes nothing more while it holds many bytes: of a
// large tensor it need not hold all at one time.
std::atomic<int64_t> read_piece{int64_t{64} << 20};

void record_read_piece(Machine& machine, int64_t request, const at::Tensor& source, const at::Tensor& destination) {
  Machine::Lock lock(machine);
  machine.begin_record();
  NamedTensors named;
  machine.open.code(Record::kRead);
  machine.open.varint(request);
  machine.write_tensor(source, named);
  machine.downloaded.fetch_add(static_cast<int64_t>(destination.nbytes()), std::memory_order_relaxed);
  machine.submit_open_batch(request, destination);
}

}  // namespace

void set_read_piece(int64_t bytes) {
  TORCH_CHECK(bytes > 0 && bytes <= static_cast<int64_t>(kMaxValueBytes), "a piece has 1 to ", kMaxValueBytes,
              " bytes, not ", bytes);
  read_piece.store(bytes);
}

Reads record_read(const at::Tensor& source, const at::Tensor& destination) {
  auto& storage = storage_of(source);
  auto& machine = *storage.machine;
  machine.check_usable(storage.id);
  auto step = std::max<int64_t>(1, read_piece.load() / static_cast<int64_t>(source.element_size()));
  if (source.numel() <= step) {
    auto request = machine.next_request();
    record_read_piece(machine, request, source, destination);
    return {request, 1};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  auto from = source.resolve_conj().resolve_neg().contiguous().view(-1);
  auto to = destination.view(-1);
  auto count = (from.numel() + step - 1) / step;
  auto first = machine.next_request(count);
  for (int64_t piece = 0; piece < count; piece++) {
    auto start = piece * step;
    auto length = std::min(step, from.numel() - start);
    record_read_piece(machine, first + piece, from.narrow(0, start, length), to.narrow(0, start, length));
  }
  return {first, count};
}

namespace {

// An autograd engine starts a thread for each device known at its first backward, and never one more. A program may
// have run backward on the CPU before it opened its first machine, so it gets another engine.
struct LateEngine final : torch::autograd::Engine {
  LateEngine() {
    initialize_device_threads_pool();
    if (device_ready_queues_.empty()) {  // libtorch does that for one engine of a process, and it was another one
      start_device_threads();
    }
  }
  static torch::autograd::Engine& get() {
    static auto* engine = new LateEngine();  // never destroyed: its threads outlive static destructors
    return *engine;
  }
};

}  // namespace

void register_backend() {
  static std::once_flag once;
  std::call_once(once, [] {
    using torch::autograd::Engine;
    c10::register_privateuse1_backend("remora");
    at::RegisterPrivateUse1HooksInterface(new RemoteHooks());
    if (&Engine::get_default_engine() == &Engine::get_base_engine()) {  // Python has an engine of its own
      torch::autograd::set_default_engine_stub(&LateEngine::get);
    }
  });
}

}  // namespace remora

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&remora::record_call>());
}

// Conjugate and negative tensors are copied as they are: their bits travel with them.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

// Where one of the two tensors is on meta, libtorch asks there.
TORCH_LIBRARY_IMPL(aten, Meta, m) {
  m.impl("_has_compatible_shallow_copy_type", remora::meta_has_compatible_shallow_copy_type);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  using namespace remora;
  m.impl("empty.memory_format", empty_memory_format);
  m.impl("empty_strided", empty_strided);
  m.impl("_efficientzerotensor", efficient_zero_tensor);
  m.impl("_lazy_clone", lazy_clone);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  m.impl("resize_", resize);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_storage_at);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("set_", set_nothing);
  m.impl("is_set_to", is_set_to);
  m.impl("_has_compatible_shallow_copy_type", has_compatible_shallow_copy_type);
  m.impl("record_stream", record_stream);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar_dense);

  // Operators that libtorch would take apart for a backend it does not know, although CPU and CUDA have kernels for
  // them that round differently (or, as convolution's, would hand to a kernel that no node has): they are recorded
  // whole, and the node chooses.
  for (const char* name :
       {"convolution", "convolution_backward", "native_layer_norm", "native_group_norm",
        "slow_conv_transpose2d", "index_add", "index_add_", "index_reduce", "index_reduce_", "silu_backward",
        "mish_backward", "addr", "addr.out", "_stack", "_stack.out", "all.dims", "all.dims_out", "any.dims", "any.dims_out", "_grouped_mm", "_chunk_cat", "_chunk_cat.out",
        // These would read the tensors' memory in this process.
        "_convolution", "_batch_norm_no_update", "_batch_norm_with_update",
        "_batch_norm_with_update.out", "_grid_sampler_2d_cpu_fallback", "_grid_sampler_2d_cpu_fallback.out",
        "_grid_sampler_2d_cpu_fallback_backward", "_nnpack_spatial_convolution", "choose_qparams_optimized",
        "_sobol_engine_ff_", "_sobol_engine_draw", "_sobol_engine_initialize_state_", "_sobol_engine_scramble_",
        "_rowwise_prune", "conj_physical_", "range.out", "range.out_", "mode.values", "pixel_shuffle",
        "pixel_unshuffle", "kaiser_window", "kaiser_window.periodic", "kaiser_window.beta", "kaiser_window.out",
        "kaiser_window.periodic_out", "kaiser_window.beta_out"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&record_call>());
  }
  // The same for operators on lists, of which there are too many to name.
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    // Except _foreach_copy, which keeps the strides of what it clones, and those whose scalars are a CPU tensor that is
    // read in the program: libtorch's taking apart does both.
    bool apart = name.name == "aten::_foreach_copy" ||
        ((name.name.rfind("aten::_foreach_addc", 0) == 0) && name.overload_name == "Tensor");
    if (name.name.rfind("aten::_foreach_", 0) == 0 && name.overload_name.find("out") == std::string::npos && !apart) {
      auto full = name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
      m.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&record_call>());
    }
  }
}
