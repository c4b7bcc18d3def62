// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Random generators whose state lives on the node.
#pragma once

#include <ATen/core/Generator.h>

#include <cstdint>

namespace remora {

// The default generator of a slot of its machine, its last machine's when that is closed. They stay for the life of the
// process, as machines do: libtorch keeps the reference.
const at::Generator& default_generator(int slot);
at::Generator new_generator(int slot);
// The number of a remote generator on its machine.
int64_t generator_id(const at::Generator& generator);

}  // namespace remora
