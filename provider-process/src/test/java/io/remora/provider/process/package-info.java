// SPDX-License-Identifier: AGPL-3.0-or-later
/** Tests of the process provider, with real commands and nodes. */
package io.remora.provider.process;
