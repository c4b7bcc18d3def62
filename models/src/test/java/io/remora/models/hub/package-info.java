// SPDX-License-Identifier: AGPL-3.0-or-later
/** Tests of the hub's client against a hub on this computer. */
package io.remora.models.hub;
