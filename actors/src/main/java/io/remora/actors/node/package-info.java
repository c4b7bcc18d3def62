// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The machine's end of the link to its node: {@link io.remora.actors.node.NodeLink} is an actor
 * over one connection after the other, each of its states a class. Not for use by programs.
 */
package io.remora.actors.node;
