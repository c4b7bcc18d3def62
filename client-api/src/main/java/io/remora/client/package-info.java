// SPDX-License-Identifier: AGPL-3.0-or-later

/**
 * What a program uses: {@link io.remora.client.RemoteMachine} opens a machine and gives its
 * devices, {@link io.remora.client.Remora} answers questions about remote tensors.
 *
 * <p>Everything else is bytedeco's PyTorch, unchanged: tensors on a remote device are made,
 * computed with, trained and read like tensors on any other.
 *
 * <p>All errors are unchecked and extend {@link io.remora.runtime.RemoraException}.
 */
package io.remora.client;
