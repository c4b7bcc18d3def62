// SPDX-License-Identifier: AGPL-3.0-or-later
/** Implementation details of the actors; not API. */
package io.remora.actors.internal;
