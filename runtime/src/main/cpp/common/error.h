// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Errors that carry the name of their class, so that each binding throws its own exception of that class.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

namespace remora {

// Throws an error whose text starts with "<kind>: ". The bindings turn it into their own exception of that name.
[[noreturn]] void raise(const char* kind, const std::string& message);
[[noreturn]] void throw_error(std::string text);
std::string error_text(const std::exception& error);  // starts with "<kind>: " if raise() threw the error

// From now on, errors of the kind `name` reach Python as exceptions of the given class, a PyObject*. Thread-safe.
void set_python_exception(const char* name, int64_t type);
bool is_python_exception(const std::string& name);

// To be called around a fork: they take and release the lock that the functions above use.
void lock_errors();
void unlock_errors();

}  // namespace remora
