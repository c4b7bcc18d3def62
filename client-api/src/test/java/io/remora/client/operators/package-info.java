// SPDX-License-Identifier: AGPL-3.0-or-later
/** Every operator of libtorch, on a remote device and on the local CPU, compared. */
package io.remora.client.operators;
