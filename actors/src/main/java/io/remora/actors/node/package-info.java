// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The machine's end of the link to its node: {@link io.remora.actors.node.NodeLink} is an actor
 * that uses one connection after the other. Each of its states is a class. Not for use by programs.
 */
package io.remora.actors.node;
