// SPDX-License-Identifier: AGPL-3.0-or-later
//
// The core builds against libtorch 2.6 and newer. What differs between versions stands behind this number.
#pragma once

#include <torch/version.h>

#define REMORA_TORCH (TORCH_VERSION_MAJOR * 100 + TORCH_VERSION_MINOR)  // 210: libtorch 2.10
