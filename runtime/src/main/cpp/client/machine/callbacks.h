// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Where batches go and answers come from: a binding's own functions, or session.cpp.
#pragma once

#include <cstdint>
#include <functional>

#include "client/machine/batch.h"
#include "common/callbacks.h"

namespace remora {

// `submit` and `await` throw on failure.
struct Callbacks {
  std::function<void(int64_t machine, Batch* batch)> submit;    // takes ownership of the batch
  std::function<void(int64_t machine, int64_t request)> await;  // returns when the answer has arrived
  std::function<void(int64_t machine)> lost;                    // the machine was closed or has failed; may be empty
  remora_trace_callback trace = nullptr;
  remora_call_site_callback call_site = nullptr;
  bool warns = false;  // libtorch's warnings on the program's threads reach the program
};

inline Callbacks& callbacks() {
  static Callbacks installed;
  return installed;
}

}  // namespace remora
