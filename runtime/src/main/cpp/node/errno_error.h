// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once

#include <c10/util/Exception.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace remora {

// Throws what the operating system says of its last call, after `what`.
[[noreturn]] inline void fail_with_errno(const std::string& what) {
  auto code = errno;
  TORCH_CHECK(
      false, what, ": ", std::strerror(code),
      code == EMFILE ? "; every tensor given to a remote function takes one: raise the node's limit (ulimit -n)" : "");
}

}  // namespace remora
