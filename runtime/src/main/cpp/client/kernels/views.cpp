// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Kernels that change only metadata.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/native/ResizeCommon.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

#include "client/kernels/fill.h"
#include "client/kernels/names.h"
#include "client/machine/slots.h"
#include "client/storage.h"

namespace remora {

namespace {

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
#ifdef REMORA_NAMED_TENSORS
  TORCH_CHECK(
      !self.has_names(), "Cannot resize named tensor with resize_ or resize_as_ (tried to resize Tensor", self.names(),
      " with size ", self.sizes(), " to ", sizes,
      "). This may be caused by passing a named tensor as an `out=` argument; please ensure that the sizes are the ",
      "same. ");
#endif
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
    strides = {};  // no strides given: libtorch detects this by the null pointer
  }
  at::native::checkSetStorage(self, std::move(source), offset, sizes, strides);
  auto implied = sizes == self.sizes() ? c10::DimVector(self.strides()) : c10::contiguous_strides(sizes);
  self.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides.empty() ? c10::IntArrayRef(implied) : strides,
                                                    offset);
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

// libtorch has a fixed list of backends whose tensors may take over each other's data, as Module::to does.
bool has_compatible_shallow_copy_type(const at::Tensor& self, const at::Tensor& from) {
  auto is_dense = [](const at::Tensor& t) {
    auto device = t.device();
    return t.layout() == c10::kStrided && (device.type() == kRemora || device.is_cpu() || device.is_meta()) &&
           t.key_set().has_any(c10::DispatchKeySet(c10::DispatchKey::Dense));
  };
  return is_dense(self) && is_dense(from);
}

// A parameter on meta may become a remote one; everything else is as in libtorch.
bool meta_has_compatible_shallow_copy_type(const at::Tensor& self, const at::Tensor& from) {
  return from.device().type() == kRemora ? has_compatible_shallow_copy_type(self, from)
                                         : self.unsafeGetTensorImpl()->has_compatible_shallow_copy_type(from.key_set());
}

void record_stream(at::Tensor&, c10::Stream) {}  // a device has one stream: nothing to record

}  // namespace

}  // namespace remora

// If one of the two tensors is on meta, libtorch calls the Meta kernel.
TORCH_LIBRARY_IMPL(aten, Meta, m) {
  m.impl("_has_compatible_shallow_copy_type", remora::meta_has_compatible_shallow_copy_type);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  using namespace remora;
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
}
