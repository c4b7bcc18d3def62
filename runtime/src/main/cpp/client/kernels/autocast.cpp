// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Autocast on remora devices, with libtorch's own lists of operators and precisions.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

namespace at::autocast {

// KERNEL's expansion uses names of this namespace without qualification.
#define REMORA_LOWER_PRECISION(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define REMORA_FP32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define REMORA_FP32_SET_OPT_DTYPE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define REMORA_PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)

static Tensor refuse_binary_cross_entropy(const Tensor&, const Tensor&, const std::optional<Tensor>&, int64_t) {
  TORCH_CHECK(false, "binary_cross_entropy of half precision probabilities is too inaccurate under autocast; ",
              "use binary_cross_entropy_with_logits, or turn autocast off around the loss");
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(REMORA_LOWER_PRECISION)
  AT_FORALL_FP32(REMORA_FP32)
  AT_FORALL_FP32_SET_OPT_DTYPE(REMORA_FP32_SET_OPT_DTYPE)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(REMORA_PROMOTE)
  m.impl("binary_cross_entropy", &refuse_binary_cross_entropy);
}

}  // namespace at::autocast
