// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Every operator of a simulated device: the CPU's kernel computes on what the kernels see of the device's memory, and the
// stream writes the results later. A program that does not wait for the stream finds the old bytes.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <cstring>
#include <mutex>
#include <unordered_map>

#include "generator.h"
#include "memory.h"
#include "streams.h"

namespace accelerator {

namespace {

using at::Tensor;
using torch::jit::Stack;

bool is_ours(const Tensor& t) { return t.defined() && t.device().type() == kType; }

at::DispatchKeySet keys() { return at::DispatchKeySet(at::DispatchKey::MTIA); }

c10::Storage device_storage(c10::DeviceIndex device, size_t bytes) {
  c10::DeviceGuard guard({kType, device});
  return c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), bytes,
                                               device_allocator()->allocate(bytes), device_allocator(), true);
}

Tensor tensor_on(const c10::Storage& storage, at::DispatchKeySet key, const Tensor& like) {
  auto t = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), key, like.dtype());
  auto* impl = t.unsafeGetTensorImpl();
  impl->set_storage_offset(like.storage_offset());
  impl->set_sizes_and_strides(like.sizes(), like.strides());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  if (like.is_conj()) t._set_conj(true);
  if (like.is_neg()) t._set_neg(true);
  return t;
}

void enlarge(c10::StorageImpl* storage, size_t bytes) {
  auto device = storage->device().index();
  auto larger = device_storage(device, bytes);
  enqueue(current_stream(device), [to = kernel_view(larger.data()), from = kernel_view(storage->data()),
                                   size = std::min(bytes, storage->nbytes())] {
    if (size > 0) std::memcpy(to, from, size);
  });
  // A block is only used again by its own stream, behind this copy.
  storage->set_data_ptr_noswap(std::move(larger.unsafeGetStorageImpl()->mutable_data_ptr()));
  storage->set_nbytes(bytes);
}

// The CPU's side of one call.
class Call {
 public:
  explicit Call(c10::DeviceIndex device) : device_(device), stream_(current_stream(device)) {}

  // A storage that the call writes. It is computed in a copy.
  void writes(const Tensor& t) {
    if (is_ours(t)) storage(t).written = true;
  }

  Tensor to_cpu(const Tensor& t) {
    if (!is_ours(t)) return t;
    TORCH_CHECK(t.device().index() == device_,
                "Expected all tensors to be on the same device, but found at least two "
                "devices, ",
                t.device(), " and ", c10::Device(kType, device_), "!");
    for (auto& [ours, cpu] : arguments_) {
      if (ours.is_same(t)) return cpu;  // an output that is an input, too, is one tensor for the kernel
    }
    auto& its = storage(t);
    if (!its.cpu) {
      its.cpu = its.written ? copy_of(its.device) : view_of(its.device);
      by_cpu_.emplace(its.cpu.unsafeGetStorageImpl(), its.device);
    }
    auto cpu = tensor_on(its.cpu, at::DispatchKeySet(at::DispatchKey::CPU), t);
    arguments_.emplace_back(t, cpu);
    return cpu;
  }

  // What the call has written goes to the device, and the tensors get their new sizes.
  void finish() {
    for (auto& [impl, its] : storages_) {
      if (!its.written || !its.cpu) continue;
      if (its.cpu.nbytes() > its.device.nbytes()) enlarge(its.device.unsafeGetStorageImpl(), its.cpu.nbytes());
      send(its.cpu, its.device);
    }
    for (auto& [ours, cpu] : arguments_) {
      if (ours.sizes() != cpu.sizes() || ours.strides() != cpu.strides() ||
          ours.storage_offset() != cpu.storage_offset()) {
        ours.unsafeGetTensorImpl()->set_storage_offset(cpu.storage_offset());
        ours.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides());
      }
    }
  }

  Tensor to_device(const Tensor& t) {
    if (!t.defined()) return t;
    for (auto& [ours, cpu] : arguments_) {
      if (cpu.is_same(t)) return ours;
    }
    if (t.layout() != c10::kStrided) return t;  // the devices have strided tensors only
    auto* impl = t.storage().unsafeGetStorageImpl();
    auto it = by_cpu_.find(impl);
    if (it == by_cpu_.end()) {
      auto fresh = device_storage(device_, t.storage().nbytes());
      send(t.storage(), fresh);
      it = by_cpu_.emplace(impl, fresh).first;
    }
    return tensor_on(it->second, keys(), t);
  }

 private:
  struct Its {
    c10::Storage device;
    c10::Storage cpu;
    bool written = false;
  };

  Its& storage(const Tensor& t) {
    auto& its = storages_[t.storage().unsafeGetStorageImpl()];
    if (!its.device) its.device = t.storage();
    return its;
  }
  static c10::Storage view_of(const c10::Storage& device) {
    c10::DataPtr data(kernel_view(device.data()), c10::kCPU);
    return c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), device.nbytes(), std::move(data),
                                                 nullptr, false);
  }
  static c10::Storage copy_of(const c10::Storage& device) {
    auto* allocator = c10::GetCPUAllocator();
    auto copy = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), device.nbytes(),
                                                      allocator->allocate(device.nbytes()), allocator, true);
    if (device.nbytes() > 0) std::memcpy(copy->mutable_data(), kernel_view(device.data()), device.nbytes());
    return copy;
  }
  void send(const c10::Storage& cpu, const c10::Storage& device) {
    if (cpu.nbytes() == 0) return;
    enqueue(stream_, [cpu, to = kernel_view(device.data())] { std::memcpy(to, cpu.data(), cpu.nbytes()); });
  }

  c10::DeviceIndex device_;
  c10::Stream stream_;
  std::unordered_map<c10::StorageImpl*, Its> storages_;
  std::unordered_map<c10::StorageImpl*, c10::Storage> by_cpu_;
  std::vector<std::pair<Tensor, Tensor>> arguments_;  // ours, and the CPU's for it
};

template <class Visit>
void each_tensor(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isList()) {
    for (const auto& element : value.toListRef()) each_tensor(element, visit);
  }
}

template <class Convert>
c10::IValue converted(const c10::IValue& value, const Convert& convert) {
  if (value.isTensor()) return convert(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& t : value.toTensorVector()) list.push_back(convert(t));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const auto& t : value.toOptionalTensorVector()) {
      list.push_back(t.has_value() ? std::optional<Tensor>(convert(*t)) : std::nullopt);
    }
    return list;
  }
  return value;
}

// Kernels that draw without a generator argument use the CPU's default one. It gets the device's state meanwhile.
class DefaultGenerator {
 public:
  DefaultGenerator(bool wanted, c10::DeviceIndex device) : wanted_(wanted) {
    if (!wanted) return;
    turn().lock();
    shared_ = at::detail::getDefaultCPUGenerator();
    ours_ = static_cast<Generator*>(default_generator(device).unsafeGetGeneratorImpl())->inner();
    before_ = shared_.get_state();
    shared_.set_state(ours_.get_state());
  }
  ~DefaultGenerator() {
    if (!wanted_) return;
    ours_.set_state(shared_.get_state());
    shared_.set_state(before_);
    turn().unlock();
  }

 private:
  static std::mutex& turn() {
    static std::mutex mutex;
    return mutex;
  }
  bool wanted_;
  at::Generator shared_;
  at::Generator ours_;
  Tensor before_;
};

void run(const c10::OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  auto count = schema.arguments().size();
  auto first = stack->size() - count;
  std::optional<c10::DeviceIndex> device;
  for (size_t i = 0; i < count && !device; i++) {
    const auto& value = (*stack)[first + i];
    if (value.isDevice() && value.toDevice().type() == kType) device = value.toDevice().index();
    each_tensor(value, [&](const Tensor& t) {
      if (is_ours(t) && !device) device = t.device().index();
    });
  }
  auto on = device.value_or(current_device());
  if (on < 0) on = current_device();
  // The arguments are final for this stream. Work of other streams is only if the program has waited for it.
  synchronize(current_stream(on));

  Call call(on);
  bool given = false;
  for (size_t i = 0; i < count; i++) {
    const auto* alias = schema.arguments()[i].alias_info();
    if (alias != nullptr && alias->isWrite()) {
      each_tensor((*stack)[first + i], [&](const Tensor& t) { call.writes(t); });
    }
  }
  for (size_t i = 0; i < count; i++) {
    auto& value = (*stack)[first + i];
    const auto& type = *schema.arguments()[i].type();
    bool generator = type.kind() == c10::TypeKind::GeneratorType ||
                     (type.kind() == c10::TypeKind::OptionalType &&
                      type.castRaw<c10::OptionalType>()->getElementType()->kind() == c10::TypeKind::GeneratorType);
    if (generator) {
      given = true;
      auto its = value.isGenerator() ? value.toGenerator() : default_generator(on);
      if (its.device().type() == kType) value = static_cast<Generator*>(its.unsafeGetGeneratorImpl())->inner();
    } else if (value.isDevice() && value.toDevice().type() == kType) {
      value = c10::Device(c10::kCPU);
    } else {
      value = converted(value, [&](const Tensor& t) { return call.to_cpu(t); });
    }
  }
  {
    bool draws = !given && op.hasTag(at::Tag::nondeterministic_seeded);
    DefaultGenerator lent(draws, on);
    at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(*stack);
  }
  call.finish();
  for (auto i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    (*stack)[i] = converted((*stack)[i], [&](const Tensor& t) { return call.to_device(t); });
  }
}

void any(const c10::OperatorHandle& op, Stack* stack) { run(op, stack); }

c10::OperatorHandle find(const char* name, const char* overload) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
}

// ---------------------------------------------------------------- operators that are not a kernel on values

c10::Device full(std::optional<c10::Device> device) {
  auto named = device.value_or(c10::Device(kType));
  return named.has_index() ? named : c10::Device(kType, current_device());
}

Tensor empty(at::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
             std::optional<c10::Device> device, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  c10::DeviceGuard guard(full(device));
  return at::detail::empty_generic(size, device_allocator(), keys(), c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                     std::optional<c10::Layout>, std::optional<c10::Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(full(device));
  return at::detail::empty_strided_generic(size, stride, device_allocator(), keys(), c10::dtype_or_default(dtype));
}

const Tensor& resize(const Tensor& self, at::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  auto* impl = self.unsafeGetTensorImpl();
  if (self.sizes() != size) impl->set_sizes_contiguous(size);
  if (format.has_value()) impl->empty_tensor_restride(*format);
  auto bytes = self.numel() == 0 ? 0 : (self.storage_offset() + self.numel()) * self.itemsize();
  if (bytes > self.storage().nbytes()) enlarge(self.storage().unsafeGetStorageImpl(), bytes);
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset);
  if (stride.data() == nullptr || (stride.empty() && !size.empty())) {
    impl->set_sizes_contiguous(size);
  } else {
    impl->set_sizes_and_strides(size, stride);
  }
  auto bytes = at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.itemsize(), offset);
  if (self.numel() > 0 && bytes > self.storage().nbytes()) enlarge(self.storage().unsafeGetStorageImpl(), bytes);
  return self;
}
Tensor& set_whole_storage(Tensor& self, at::Storage source) {
  auto elements = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return set_storage(self, std::move(source), 0, {elements}, {1});
}
Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}
Tensor& set_nothing(Tensor& self) { return set_storage(self, device_storage(self.device().index(), 0), 0, {0}, {1}); }

// Whether the bytes can be copied as they are.
bool same_layout(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.sizes() == b.sizes() && a.is_contiguous() && b.is_contiguous() &&
         a.is_conj() == b.is_conj() && a.is_neg() == b.is_neg();
}

// The values of a tensor of ours, in host memory.
Tensor downloaded(const Tensor& source) {
  synchronize(current_stream(source.device().index()));
  return Call(source.device().index()).to_cpu(source).clone();
}

Tensor& copy(Tensor& self, const Tensor& source, bool non_blocking) {
  if (is_ours(self)) {
    auto stream = current_stream(self.device().index());
    if (non_blocking && !is_ours(source) && is_pinned(source.const_data_ptr()) && same_layout(self, source)) {
      enqueue(stream, [source, to = kernel_view(self.mutable_data_ptr())] {
        if (source.nbytes() > 0) std::memcpy(to, source.const_data_ptr(), source.nbytes());
      });
      return self;
    }
    static const auto op = find("aten::copy_", "");
    auto values = is_ours(source) && source.device() != self.device() ? downloaded(source) : source;
    Stack stack{self, values, non_blocking};
    run(op, &stack);
    return self;
  }
  if (non_blocking && is_pinned(self.const_data_ptr()) && same_layout(self, source)) {
    enqueue(current_stream(source.device().index()), [self, source, from = kernel_view(source.const_data_ptr())] {
      if (self.nbytes() > 0) std::memcpy(self.mutable_data_ptr(), from, self.nbytes());
    });
    return self;
  }
  return self.copy_(downloaded(source));
}

void record_stream(Tensor& self, c10::Stream stream) {
  device_allocator()->recordStream(self.storage().data_ptr(), stream);
}

}  // namespace
}  // namespace accelerator

TORCH_LIBRARY_IMPL(_, MTIA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&accelerator::any>()); }
TORCH_LIBRARY_IMPL(aten, MTIA, m) {
  using namespace accelerator;
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("resize_", resize);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("set_", set_nothing);
  m.impl("copy_", copy);
  m.impl("record_stream", record_stream);
  // libtorch's own kernels of these choose by the device, and know no such device.
  for (const char* name : {"convolution", "convolution_backward", "_convolution", "conj_physical_", "mode",
                           "mode.values", "kaiser_window", "kaiser_window.beta", "kaiser_window.periodic",
                           "kaiser_window.out", "kaiser_window.beta_out", "kaiser_window.periodic_out"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&any>());
  }
  // libtorch would compute these by other operators, although the CPU, as every device that it knows, has a kernel.
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    auto op = dispatcher.findOp(name);
    if (name.name.rfind("aten::", 0) != 0 || !op || !op->hasKernelForDispatchKey(c10::DispatchKey::CPU)) continue;
    for (auto composite :
         {c10::DispatchKey::CompositeExplicitAutograd, c10::DispatchKey::CompositeExplicitAutogradNonFunctional,
          c10::DispatchKey::CompositeImplicitAutograd}) {
      if (op->hasKernelForDispatchKey(composite)) {
        m.impl(toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&any>());
        break;
      }
    }
  }
}
