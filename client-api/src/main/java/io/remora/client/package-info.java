// SPDX-License-Identifier: AGPL-3.0-or-later

/**
 * The API for programs: {@link io.remora.client.RemoteMachine} opens a machine and provides its
 * devices, {@link io.remora.client.Remora} answers questions about remote tensors.
 *
 * <p>Everything else is bytedeco's PyTorch, unchanged: create, compute, train and read tensors on a
 * remote device as on any other device.
 *
 * <p>All errors are unchecked and extend {@link io.remora.runtime.RemoraException}.
 */
package io.remora.client;
