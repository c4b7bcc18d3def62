// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The PyTorch backend "remora": its name, and the operators that it records whole.
#include "client/device/registration.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DeviceType.h>
#include <torch/library.h>

#include <mutex>

#include "client/recorder/recorder.h"

namespace remora {

void register_backend() {
  static std::once_flag once;
  std::call_once(once, [] {
    c10::register_privateuse1_backend("remora");
    register_hooks();
    register_engine();
    register_structured();
  });
}

}  // namespace remora

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&remora::record_call>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  using namespace remora;
  // Operators that libtorch would decompose for a backend it does not know, although CPU and CUDA have kernels for them
  // that round differently. Convolution's decomposition would even call a kernel that no node has. These operators are
  // recorded whole, and the node chooses the kernel.
  for (const char* name :
       {"convolution", "convolution_backward", "native_layer_norm", "native_group_norm", "slow_conv_transpose2d",
        "index_add", "index_add_", "index_reduce", "index_reduce_", "silu_backward", "mish_backward", "addr",
        "addr.out", "_stack", "_stack.out", "all.dims", "all.dims_out", "any.dims", "any.dims_out", "_grouped_mm",
        "_chunk_cat", "_chunk_cat.out",
        // Decomposed, these would give contiguous results where the kernels choose another memory format.
        "reflection_pad3d", "reflection_pad3d_backward", "replication_pad2d", "replication_pad3d",
        // Decomposed, these would read the tensors' memory in this process.
        "_convolution", "_batch_norm_no_update", "_batch_norm_with_update", "_batch_norm_with_update.out",
        "_grid_sampler_2d_cpu_fallback", "_grid_sampler_2d_cpu_fallback.out", "_grid_sampler_2d_cpu_fallback_backward",
        "_nnpack_spatial_convolution", "choose_qparams_optimized", "_sobol_engine_ff_", "_sobol_engine_draw",
        "_sobol_engine_initialize_state_", "_sobol_engine_scramble_", "_rowwise_prune", "conj_physical_", "range.out",
        "range.out_", "mode.values", "pixel_shuffle", "pixel_unshuffle", "kaiser_window", "kaiser_window.periodic",
        "kaiser_window.beta", "kaiser_window.out", "kaiser_window.periodic_out", "kaiser_window.beta_out"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&record_call>());
  }
  // The same applies to the operators on lists, which are too many to name.
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    // Two kinds are decomposed by libtorch instead: _foreach_copy, which keeps the strides of the tensors that it
    // clones, and operators whose scalars are a CPU tensor, which is read in the program.
    bool apart = name.name == "aten::_foreach_copy" ||
                 ((name.name.rfind("aten::_foreach_addc", 0) == 0) && name.overload_name == "Tensor");
    if (name.name.rfind("aten::_foreach_", 0) == 0 && name.overload_name.find("out") == std::string::npos && !apart) {
      auto full = name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
      m.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&record_call>());
    }
  }
}
