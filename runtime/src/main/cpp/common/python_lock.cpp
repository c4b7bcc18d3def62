// SPDX-License-Identifier: AGPL-3.0-or-later
#include "common/python_lock.h"

namespace remora {

namespace {

struct PythonLock {
  int (*check)() = nullptr;
  void* (*save)() = nullptr;
  void (*restore)(void*) = nullptr;
};
PythonLock python_lock;

}  // namespace

PythonUnlocked::PythonUnlocked()
    : saved_(python_lock.check != nullptr && python_lock.check() != 0 ? python_lock.save() : nullptr) {}
PythonUnlocked::~PythonUnlocked() {
  if (saved_ != nullptr) {
    python_lock.restore(saved_);
  }
}
void set_python_lock(int64_t check, int64_t save, int64_t restore) {
  python_lock.save = reinterpret_cast<void* (*)()>(save);
  python_lock.restore = reinterpret_cast<void (*)(void*)>(restore);
  python_lock.check = reinterpret_cast<int (*)()>(check);
}

}  // namespace remora
