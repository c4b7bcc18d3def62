// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The JavaCPP binding of the native core, and the loading of its libraries. Internal to this
 * module.
 */
package io.remora.runtime.internal;
