// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The actors of the machine's side: {@link io.remora.actors.MachineActor} for each machine, its
 * {@link io.remora.actors.node.NodeLink} to the node and its {@link
 * io.remora.actors.StorageActor}s, and the embedded cluster they live in. Tensor bytes do not pass
 * through them: see {@link io.remora.actors.LocalSessions}.
 */
package io.remora.actors;
