// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The line of the program that the calling thread is at, as the binding tells it.
#pragma once

#include <string>

#include "common/callbacks.h"

namespace remora {

// Sets the function that tells the calling thread's line of the program; null: none.
void set_line_callback(remora_line_callback line);
// "" if it is not known. Must be called without the core's locks: it may have to wait for Python's.
std::string program_line();

}  // namespace remora
