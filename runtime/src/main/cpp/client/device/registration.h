// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Registers the backend "remora" with libtorch.
#pragma once

namespace remora {

void register_backend();  // once; further calls do nothing

// Parts of register_backend().
void register_hooks();
void register_engine();
void register_structured();  // after the kernels of all other operators

}  // namespace remora
