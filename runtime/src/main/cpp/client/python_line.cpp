// SPDX-License-Identifier: AGPL-3.0-or-later
#include "client/python_line.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "client/program_line.h"

namespace remora {

namespace {

struct PythonFunctions {
  void* (*thread_state)();                 // PyGILState_GetThisThreadState
  int (*ensure)();                         // PyGILState_Ensure
  void (*release)(int);                    // PyGILState_Release
  void* (*frame)();                        // PyEval_GetFrame; borrowed, the following are not
  void* (*back)(void*);                    // PyFrame_GetBack
  void* (*code)(void*);                    // PyFrame_GetCode
  int (*line)(void*);                      // PyFrame_GetLineNumber
  void* (*attribute)(void*, const char*);  // PyObject_GetAttrString
  const char* (*text)(void*);              // PyUnicode_AsUTF8
  void (*increment)(void*);                // Py_IncRef
  void (*decrement)(void*);                // Py_DecRef
  void (*clear_error)();                   // PyErr_Clear
};
PythonFunctions python;
std::vector<std::string> skipped;

// Owns a reference to a Python object, which may be null.
class Reference {
 public:
  explicit Reference(void* object) : object_(object) {}
  ~Reference() { python.decrement(object_); }  // Py_DecRef takes null
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;
  void* get() const { return object_; }
  void reset(void* object) {
    python.decrement(object_);
    object_ = object;
  }

 private:
  void* object_;
};

// A text attribute of a code object; "" if it has none.
std::string text_of(void* code, const char* name) {
  Reference value(python.attribute(code, name));
  const char* text = value.get() == nullptr ? nullptr : python.text(value.get());
  if (text == nullptr) {
    python.clear_error();
    return "";
  }
  return text;
}

bool is_programs(const std::string& file) {
  return std::none_of(skipped.begin(), skipped.end(),
                      [&](const std::string& prefix) { return file.compare(0, prefix.size(), prefix) == 0; });
}

// The nearest frame of the program. With Python's lock.
int32_t write_line(char* text, int32_t capacity) {
  void* innermost = python.frame();
  python.increment(innermost);
  Reference frame(innermost);
  while (frame.get() != nullptr) {
    Reference code(python.code(frame.get()));
    auto file = text_of(code.get(), "co_filename");
    if (is_programs(file)) {
      auto function = text_of(code.get(), "co_name");
      auto length = std::snprintf(text, static_cast<size_t>(capacity), "%s:%d in %s", file.c_str(),
                                  python.line(frame.get()), function.c_str());
      return std::clamp(length, 0, capacity - 1);
    }
    frame.reset(python.back(frame.get()));
  }
  return 0;
}

int32_t python_line(char* text, int32_t capacity) {
  if (python.thread_state() == nullptr) {
    return 0;  // a thread that Python does not know, such as one of libtorch's for backward passes
  }
  auto lock = python.ensure();
  auto length = write_line(text, capacity);
  python.release(lock);
  return length;
}

}  // namespace

void set_python_functions(const int64_t* functions, int64_t count, const char* not_the_programs) {
  TORCH_CHECK(static_cast<size_t>(count) * sizeof(int64_t) == sizeof python, "RemoraException: ", count,
              " addresses of Python's functions");
  std::memcpy(&python, functions, sizeof python);
  skipped.clear();
  std::istringstream lines(not_the_programs);
  for (std::string prefix; std::getline(lines, prefix);) skipped.push_back(prefix);
  set_line_callback(python_line);
}

}  // namespace remora
