// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Python's interpreter lock, which a waiting thread must not hold. The core does not link Python; the binding provides
// the functions.
#pragma once

#include <cstdint>
#include <mutex>

namespace remora {

// Releases Python's interpreter lock for its lifetime, if this thread holds the lock.
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

// Locks the mutex. A thread that has to wait for it releases Python's lock meanwhile.
inline std::unique_lock<std::mutex> locked(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
  if (!lock.owns_lock()) {
    PythonUnlocked unlocked;
    lock.lock();
  }
  return lock;
}

}  // namespace remora
