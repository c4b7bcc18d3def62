// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The wire between a machine and its node: frames with checksums over one connected socket.
 *
 * <p>{@link io.remora.actors.link.LinkConnection} carries frames in both directions and is the same
 * on both sides; {@link io.remora.actors.link.LinkTransport} makes the sockets and decides which
 * addresses are allowed. Control payloads are the protobuf messages of {@code
 * remora/link/v1/link.proto}; batches, reports and values are raw bytes.
 */
package io.remora.actors.link;
