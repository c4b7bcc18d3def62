// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Errors that carry the name of their class, so that each binding throws its own exception of that name.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

namespace remora {

// Throws an error whose text starts with "<kind>: "; the bindings make their own exception of that name of it.
[[noreturn]] void raise(const char* kind, const std::string& message);
[[noreturn]] void throw_error(std::string text);
std::string error_text(const std::exception& error);  // starts with "<kind>: " where raise() threw it

// From now on errors of that kind reach Python as exceptions of this class, a PyObject*. Thread-safe.
void set_python_exception(const char* name, int64_t type);
bool is_python_exception(const std::string& name);

// Around a fork: the lock that the functions above take.
void lock_errors();
void unlock_errors();

}  // namespace remora
