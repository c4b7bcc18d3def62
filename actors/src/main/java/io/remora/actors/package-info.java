// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The actors of the program's side: a {@link io.remora.actors.MachineActor} for each machine, its
 * {@link io.remora.actors.node.NodeLink} to the node and its {@link
 * io.remora.actors.StorageActor}s, and the embedded cluster that runs them. Tensor bytes do not
 * pass through actors: see {@link io.remora.actors.LocalSessions}.
 */
package io.remora.actors;
