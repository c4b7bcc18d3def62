// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * How machines are got: the interface that providers of nodes implement, found by {@link
 * java.util.ServiceLoader}.
 */
package io.remora.provider;
