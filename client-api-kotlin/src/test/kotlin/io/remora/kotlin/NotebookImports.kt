// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin.notebook

import io.remora.client.*
import io.remora.kotlin.*
import org.bytedeco.pytorch.Tensor
import org.bytedeco.pytorch.global.torch.*

/** What a first cell of a notebook does. */
internal fun firstCell(): Float =
  machine("mock") {
    val twos: Tensor = ones(2, 2).to(device(), ScalarType.Float) * 2
    twos.sum().item_float()
  }
