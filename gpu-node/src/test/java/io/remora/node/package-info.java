// SPDX-License-Identifier: AGPL-3.0-or-later
/** Tests of the node, with real processes, sockets and libtorch. */
package io.remora.node;
