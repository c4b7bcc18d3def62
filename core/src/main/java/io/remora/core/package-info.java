// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Helpers that several of Remora's modules share: the end of a process, unfinished files, the
 * program's version of libtorch, queues whose items are sent again, waits for room and between
 * attempts, the table of errors, the errors of commands, numbers of the wire format. Not for use by
 * programs.
 */
package io.remora.core;
