// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin

import io.remora.client.TensorScope
import org.bytedeco.javacpp.Pointer

/**
 * Runs [block] and frees the tensors that it created, in the program and on the machine, except its result and what it
 * keeps:
 * ```
 * val best = scope { model.forward(images).argmax() }
 * ```
 *
 * Scopes belong to a thread. The compiler therefore refuses suspending calls inside; read with [value] outside of a
 * scope, or block inside.
 *
 * @return what [block] returned; a tensor, or another bytedeco object, is kept
 * @see TensorScope
 */
public fun <R> scope(block: TensorScope.() -> R): R =
  TensorScope.open().use { scope ->
    val result = scope.block()
    if (result is Pointer) scope.keep(result)
    result
  }
