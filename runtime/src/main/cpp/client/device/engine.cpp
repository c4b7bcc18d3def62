// SPDX-License-Identifier: AGPL-3.0-or-later
#include <torch/csrc/autograd/engine.h>

#include "client/device/registration.h"

namespace remora {

namespace {

// An autograd engine creates its threads at its first backward, one for each device known then, and never adds any. A
// program may have run backward on the CPU before it opened its first machine, so it gets another engine.
struct LateEngine final : torch::autograd::Engine {
  LateEngine() {
    initialize_device_threads_pool();
    if (device_ready_queues_.empty()) {  // libtorch does this for only one engine of a process, which is not this one
      start_device_threads();
    }
  }
  static torch::autograd::Engine& get() {
    static auto* engine = new LateEngine();  // never destroyed: its threads outlive static destructors
    return *engine;
  }
};

}  // namespace

void register_engine() {
  using torch::autograd::Engine;
  if (&Engine::get_default_engine() == &Engine::get_base_engine()) {  // Python has its own engine
    torch::autograd::set_default_engine_stub(&LateEngine::get);
  }
}

}  // namespace remora
