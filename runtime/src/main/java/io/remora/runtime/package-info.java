// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The native core seen from Java: sessions record operations into batches, executors run them.
 *
 * <p>{@link io.remora.runtime.MachineSession} is the program's side, {@link
 * io.remora.runtime.BatchExecutor} the node's; what lies between them is a {@link
 * io.remora.runtime.BatchSink} one way and a {@link io.remora.runtime.SessionListener} the other.
 */
package io.remora.runtime;
