// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Random generators whose state lives on the node.
#pragma once

#include <ATen/core/Generator.h>

#include <cstdint>

namespace remora {

// The default generator of a slot. It belongs to the slot's machine, or to its last machine if that is closed. Default
// generators are never deleted, because libtorch keeps the reference.
const at::Generator& default_generator(int slot);
at::Generator new_generator(int slot);
// The number of a remote generator on its machine.
int64_t generator_id(const at::Generator& generator);

}  // namespace remora
