// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The node process: the side of Remora that owns the GPUs and executes batches.
 *
 * <p>{@link io.remora.node.Main} is the command, {@link io.remora.node.EmbeddedNode} the same node
 * inside a running JVM. A node listens on one link port, checks who connects, and runs each session
 * on a thread of its own:
 *
 * <pre>{@code
 * reader thread of the connection -> SessionInbox -> SessionActor (pinned thread) -> BatchExecutor
 *                                                          -> SessionOutbox -> writer thread
 * }</pre>
 *
 * <p>After a short batch the session's thread reads the connection itself for a moment, see {@link
 * io.remora.node.SessionOutbox#readUntil}.
 */
package io.remora.node;
