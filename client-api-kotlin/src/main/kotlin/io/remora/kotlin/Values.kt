// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin

import io.remora.client.Remora
import java.util.concurrent.CompletionException
import kotlin.coroutines.resumeWithException
import kotlinx.coroutines.suspendCancellableCoroutine
import org.bytedeco.pytorch.Tensor

/**
 * Reads a tensor without blocking the thread: the coroutine is suspended until the values are here. What is recorded
 * meanwhile does not change them.
 *
 * @return the same values in a tensor on the CPU, which the caller closes
 * @throws io.remora.runtime.RemoraException the error that a blocking read would throw
 * @throws IllegalArgumentException when the tensor is undefined
 */
public suspend fun Tensor.value(): Tensor = suspendCancellableCoroutine { waiting ->
  Remora.read(this).whenComplete { value, error ->
    if (error == null) {
      waiting.resume(value) { _, unused, _ -> unused.close() }
    } else {
      waiting.resumeWithException((error as? CompletionException)?.cause ?: error)
    }
  }
}

/** The only element of a tensor as a Float, read like [value]. */
public suspend fun Tensor.itemFloat(): Float = value().use { it.item_float() }

/** The only element of a tensor as a Double, read like [value]. */
public suspend fun Tensor.itemDouble(): Double = value().use { it.item_double() }

/** The only element of a tensor as a Long, read like [value]. */
public suspend fun Tensor.itemLong(): Long = value().use { it.item_long() }
