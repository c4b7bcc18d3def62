// SPDX-License-Identifier: AGPL-3.0-or-later
/** Parts of the gateway. Not for use by programs. */
package io.remora.gateway.internal;
