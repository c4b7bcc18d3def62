// SPDX-License-Identifier: AGPL-3.0-or-later
/** The command {@code remora}: what providers have running, and how to end it. */
package io.remora.command;
