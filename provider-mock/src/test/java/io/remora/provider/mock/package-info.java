// SPDX-License-Identifier: AGPL-3.0-or-later
/** Tests of the mock provider, with real child processes. */
package io.remora.provider.mock;
