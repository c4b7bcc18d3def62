// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * What providers that start a node's process have in common: the environment that the node is
 * given, its log, and the process itself where a local one stands for the node.
 */
package io.remora.provider.launch;
