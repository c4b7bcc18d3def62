// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Tensors without values. The node does not know them until they are used.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/native/TensorFactories.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <torch/library.h>

#include "client/kernels/fill.h"
#include "client/machine/machine.h"
#include "client/machine/slots.h"
#include "client/storage.h"

namespace remora {

namespace {

int slot_of(std::optional<c10::Device> device) {
  int slot = 0;
  machine_of(device.value_or(remora_device(current_slot())), &slot);
  return slot;
}

at::Tensor make_empty(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<c10::ScalarType> dtype,
                      std::optional<c10::Layout> layout, std::optional<c10::Device> device,
                      std::optional<bool> pin_memory) {
  TORCH_CHECK_NOT_IMPLEMENTED(layout.value_or(c10::kStrided) == c10::kStrided, kNotSparse);
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
  at::detail::computeStorageNbytesContiguous(sizes, c10::elementSize(c10::dtype_or_default(dtype)));  // may throw
  return make_empty(sizes, c10::contiguous_strides(sizes), dtype, layout, device, pin_memory);
}

// libtorch's shortcut for gradients that are known to be zero: metadata only. Its dispatch key, ZeroTensor, comes
// before this backend's and materializes the zeros if an operator needs values.
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

// Copy-on-write would have to observe writes to memory, so the whole storage is copied at once.
at::Tensor lazy_clone(const at::Tensor& self) {
  auto elements = static_cast<int64_t>(self.storage().nbytes() / self.element_size());
  return self.as_strided({elements}, {1}, 0).clone().as_strided(self.sizes(), self.strides(), self.storage_offset());
}

}  // namespace

}  // namespace remora

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  using namespace remora;
  m.impl("empty.memory_format", empty_memory_format);
  m.impl("empty_strided", empty_strided);
  m.impl("_efficientzerotensor", efficient_zero_tensor);
  m.impl("_lazy_clone", lazy_clone);
}
