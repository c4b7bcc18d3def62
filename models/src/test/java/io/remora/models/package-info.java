// SPDX-License-Identifier: AGPL-3.0-or-later
/** Tests with files of PyTorch and safetensors, intact and damaged. */
package io.remora.models;
