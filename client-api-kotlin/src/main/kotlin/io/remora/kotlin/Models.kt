// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin

import io.remora.client.LoadOptions
import io.remora.client.LoadProgress
import io.remora.client.RemoteMachine
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.runInterruptible
import org.bytedeco.pytorch.Tensor

/** What happens while a node loads a model. */
public sealed interface ModelLoading {

  /** The node has fetched more of the model. */
  public data class Progress(val progress: LoadProgress) : ModelLoading

  /** The model is on the device: the tensors by name, for each of its state dicts. The last element of a flow. */
  public data class Loaded(val stateDicts: Map<String, Map<String, Tensor>>) : ModelLoading
}

/**
 * Makes the node load a model, like [RemoteMachine.loadStateDicts], and tells how far it is. Loading begins when the
 * flow is collected. A slow collector misses some of the progress, never the end. Cancelling the collector ends the
 * load on the node, too.
 *
 * @param source a repository of the hub, such as `"org/model"`, or an absolute path on the node
 * @param options what to load; the flow replaces its listener for progress
 */
public fun RemoteMachine.loading(source: String, options: LoadOptions = LoadOptions.defaults()): Flow<ModelLoading> =
  channelFlow {
    val loaded =
      runInterruptible(Dispatchers.IO) {
        loadStateDicts(source, options.onProgress { trySend(ModelLoading.Progress(it)) })
      }
    send(ModelLoading.Loaded(loaded))
  }
