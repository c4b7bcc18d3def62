// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Large pages for memory that is about to be filled.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace remora {

// The size of the kernel's large pages on x86-64, and on other systems a size for which the hint below does no harm.
constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Asks the kernel for large pages where memory has none yet: making 512 small pages takes longer than copying what
// goes into them. Memory of less than two large pages stays as it is. Where the kernel refuses, nothing changes.
inline void prefer_huge_pages(void* memory, std::size_t bytes) {
#ifdef MADV_HUGEPAGE
  if (bytes < 2 * kHugePage) {
    return;
  }
  auto first = (reinterpret_cast<std::uintptr_t>(memory) + kHugePage - 1) & ~(kHugePage - 1);
  auto end = (reinterpret_cast<std::uintptr_t>(memory) + bytes) & ~(kHugePage - 1);
  if (first < end) {
    madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
  }
#endif
}

}  // namespace remora
