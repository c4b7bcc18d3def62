// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once

#include <c10/util/Exception.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace remora {

// Throws an error with `what` and the operating system's message for its last error.
[[noreturn]] inline void fail_with_errno(const std::string& what) {
  auto code = errno;
  TORCH_CHECK(
      false, what, ": ", std::strerror(code),
      code == EMFILE
          ? "; every tensor passed to a remote function uses a file descriptor: raise the node's limit (ulimit -n)"
          : "");
}

}  // namespace remora
