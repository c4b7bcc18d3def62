// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Where the sessions of a paused machine are kept: {@link io.remora.state.StateStore} and, for
 * volumes and object stores, {@link io.remora.state.StateStoreProvider} to add others.
 */
package io.remora.state;
