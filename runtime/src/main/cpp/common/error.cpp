// SPDX-License-Identifier: AGPL-3.0-or-later
#include "common/error.h"

#include <c10/util/Exception.h>

#include <map>
#include <mutex>
#include <string_view>

// libtorch's Python library turns exceptions of this class into Python exceptions of the class that python_type()
// names. The core does not link Python. The definition repeats that of torch/csrc/Exceptions.h, so that libtorch's
// Python library catches the exception.
struct _object;
namespace torch {
struct __attribute__((visibility("default"))) PyTorchError : public std::exception {
  explicit PyTorchError(std::string text) : msg(std::move(text)) {}
  virtual _object* python_type() = 0;
  const char* what() const noexcept override { return msg.c_str(); }
  std::string msg;
};
}  // namespace torch

namespace remora {

namespace {

struct PythonError final : torch::PyTorchError {
  PythonError(std::string full_text, size_t message, _object* type)
      : PyTorchError(full_text.substr(message)), full_text(std::move(full_text)), type(type) {}
  _object* python_type() override { return type; }
  std::string full_text;  // with the class's name
  _object* type;
};

std::mutex python_mutex;
std::map<std::string, _object*, std::less<>> python_types;

}  // namespace

void raise(const char* kind, const std::string& message) { throw_error(std::string(kind) + ": " + message); }

void throw_error(std::string text) {
  auto colon = text.find(": ");
  if (colon != std::string::npos) {
    std::lock_guard<std::mutex> guard(python_mutex);
    auto it = python_types.find(std::string_view(text).substr(0, colon));
    if (it != python_types.end()) {
      throw PythonError(text, colon + 2, it->second);
    }
  }
  throw c10::Error(std::move(text), nullptr);  // without a C++ backtrace, which would hide the message from the user
}

std::string error_text(const std::exception& error) {
  if (auto* ours = dynamic_cast<const PythonError*>(&error)) {
    return ours->full_text;
  }
  auto* torchs = dynamic_cast<const c10::Error*>(&error);
  return torchs != nullptr ? torchs->what_without_backtrace() : error.what();
}

void set_python_exception(const char* name, int64_t type) {
  std::lock_guard<std::mutex> guard(python_mutex);
  python_types[name] = reinterpret_cast<_object*>(type);
}

bool is_python_exception(const std::string& name) {
  std::lock_guard<std::mutex> guard(python_mutex);
  return python_types.count(name) > 0;
}

void lock_errors() { python_mutex.lock(); }
void unlock_errors() { python_mutex.unlock(); }

}  // namespace remora
