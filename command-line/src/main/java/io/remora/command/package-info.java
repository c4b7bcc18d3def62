// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The command {@code remora}: what providers have running and how to end it, and the commands of
 * the modules on the class path.
 */
package io.remora.command;
