// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/recorder/stand_ins.h"

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "client/storage.h"
#include "common/tensor_meta.h"

namespace remora {

StandIns put_stand_ins(const OperatorInfo& info, Arguments arguments, c10::IValue* stack) {
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

}  // namespace remora
