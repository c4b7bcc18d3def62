// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The line of a Python program that a thread is at. It is found with Python's C functions, without running Python code:
// that would also run the handlers of pending signals, where nothing can catch what they raise. The core does not link
// Python; the binding provides the functions.
#pragma once

#include <cstdint>

namespace remora {

// The functions' addresses, in the order of the fields of `struct PythonFunctions` in python_line.cpp. Frames of files
// whose names begin with one of the prefixes, which are separated by line ends, are not the program's. From now on
// Waits name the program's lines.
void set_python_functions(const int64_t* functions, int64_t count, const char* not_the_programs);

}  // namespace remora
