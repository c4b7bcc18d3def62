// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Gives torch.profiler the machines' times, through Kineto, the library that it collects with.
#pragma once

namespace remora {

// Registers with the process's Kineto. False if the core was built without Kineto's headers. Once per process.
bool register_with_kineto();

}  // namespace remora
