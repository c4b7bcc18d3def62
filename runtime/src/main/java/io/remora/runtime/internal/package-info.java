// SPDX-License-Identifier: AGPL-3.0-or-later
/** The JavaCPP binding of the native core, and how its library is found. Not for use elsewhere. */
package io.remora.runtime.internal;
