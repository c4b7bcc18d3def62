// SPDX-License-Identifier: AGPL-3.0-or-later
/** The provider {@code address}: machines on nodes that were started by hand. */
package io.remora.provider.address;
