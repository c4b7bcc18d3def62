// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The native core seen from Java: sessions record operations into batches, executors run them.
 *
 * <p>{@link io.remora.runtime.MachineSession} is the program's side, {@link
 * io.remora.runtime.BatchExecutor} the node's. A {@link io.remora.runtime.BatchSink} carries
 * batches to the node, a {@link io.remora.runtime.SessionListener} receives the answers.
 */
package io.remora.runtime;
