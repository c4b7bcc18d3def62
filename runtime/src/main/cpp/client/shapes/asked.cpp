// SPDX-License-Identifier: AGPL-3.0-or-later
//
// Operators whose results have other strides, or other sizes in odd cases, than libtorch's own description of them says,
// and that are too rare for a rule: the node is asked.
#include "client/shapes/rule.h"

namespace remora {

namespace {

Results ask(const Call&) { unsure("a rare operator"); }

}  // namespace

Rules asked_rules() {
  return {
      {ask, {"slow_conv_transpose2d", "_stack", "_stack.out", "addr.out", "_nnpack_spatial_convolution"}},
  };
}

}  // namespace remora
