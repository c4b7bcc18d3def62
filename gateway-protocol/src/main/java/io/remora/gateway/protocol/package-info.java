// SPDX-License-Identifier: AGPL-3.0-or-later
/** What both ends of a gateway's protocol share in addition to {@code gateway.proto}. */
package io.remora.gateway.protocol;
