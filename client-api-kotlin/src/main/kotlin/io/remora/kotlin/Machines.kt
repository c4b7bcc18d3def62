// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin

import io.remora.client.RemoteMachine
import kotlin.contracts.ExperimentalContracts
import kotlin.contracts.InvocationKind
import kotlin.contracts.contract
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.withContext

/**
 * Opens a machine, runs [block] with it and closes it.
 *
 * ```
 * machine("mock") {
 *   val a = randn(1000, 1000).to(device(), ScalarType.Float)
 *   println((a * 2).sum().item_float())
 * }
 * ```
 *
 * @param provider name of a provider on the class path, such as `"mock"`
 * @param configure further settings of the machine; see [RemoteMachine.Builder]
 * @return what [block] returned
 * @throws io.remora.runtime.ProviderException when there is no such provider or it cannot give a machine
 */
@OptIn(ExperimentalContracts::class)
public inline fun <R> machine(
  provider: String,
  configure: RemoteMachine.Builder.() -> Unit = {},
  block: RemoteMachine.() -> R,
): R {
  contract { callsInPlace(block, InvocationKind.EXACTLY_ONCE) }
  return RemoteMachine.builder().provider(provider).apply(configure).open().use(block)
}

/**
 * Opens a machine without blocking the calling thread. The caller closes it, best by `use`. If the coroutine is
 * cancelled meanwhile, the machine is closed as soon as it is open.
 *
 * @param provider name of a provider on the class path, such as `"mock"`
 * @param configure further settings of the machine; see [RemoteMachine.Builder]
 * @throws io.remora.runtime.ProviderException when there is no such provider or it cannot give a machine
 */
public suspend fun openMachine(provider: String, configure: RemoteMachine.Builder.() -> Unit = {}): RemoteMachine {
  val builder = RemoteMachine.builder().provider(provider).apply(configure)
  var opened: RemoteMachine? = null
  try {
    // A cancelled coroutine does not get the result: withContext() throws then, though the block has run to its end.
    withContext(Dispatchers.IO + NonCancellable) { opened = builder.open() }
    currentCoroutineContext().ensureActive()
    return checkNotNull(opened)
  } catch (cancelled: CancellationException) {
    withContext(Dispatchers.IO + NonCancellable) { opened?.close() }
    throw cancelled
  }
}
