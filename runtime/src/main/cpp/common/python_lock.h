// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Python's interpreter lock, which a thread that waits must not hold. The core links no Python: the binding says how.
#pragma once

#include <cstdint>
#include <mutex>

namespace remora {

// While it lives, this thread does not hold Python's interpreter lock, if it did before.
class PythonUnlocked {
 public:
  PythonUnlocked();
  ~PythonUnlocked();
  PythonUnlocked(const PythonUnlocked&) = delete;
  PythonUnlocked& operator=(const PythonUnlocked&) = delete;

 private:
  void* saved_;
};

// The addresses of PyGILState_Check, PyEval_SaveThread and PyEval_RestoreThread.
void set_python_lock(int64_t check, int64_t save, int64_t restore);

// Locks; a thread that has to wait for it does not hold up Python meanwhile.
inline std::unique_lock<std::mutex> locked(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
  if (!lock.owns_lock()) {
    PythonUnlocked unlocked;
    lock.lock();
  }
  return lock;
}

}  // namespace remora
