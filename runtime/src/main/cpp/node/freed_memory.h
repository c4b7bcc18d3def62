// SPDX-License-Identifier: AGPL-3.0-or-later
//
// What the C library does with memory that a node frees.
#pragma once

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace remora {

// Lets the C library keep freed blocks of up to 32 MiB for the next operations. By default glibc returns freed memory
// to the kernel when it lies at the end of an arena. A training step that frees what the next one allocates again then
// waits for the kernel to clear the same pages in each step. The environment's own settings win.
inline void keep_freed_memory() {
#ifdef __GLIBC__
  static const bool once = [] {
    // 32 MiB is the largest threshold that every glibc takes (HEAP_MAX_SIZE / 2).
    if (std::getenv("MALLOC_MMAP_THRESHOLD_") == nullptr) mallopt(M_MMAP_THRESHOLD, 32 << 20);
    if (std::getenv("MALLOC_TRIM_THRESHOLD_") == nullptr) mallopt(M_TRIM_THRESHOLD, 1 << 30);
    return true;
  }();
  (void)once;
#endif
}

// Returns what keep_freed_memory() kept, for the time when a session has ended.
inline void return_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace remora
