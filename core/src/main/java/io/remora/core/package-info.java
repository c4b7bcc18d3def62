// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Small things that several of Remora's modules need: the end of a process, files in the making,
 * the program's libtorch, a wait for room. Not for use by programs.
 */
package io.remora.core;
