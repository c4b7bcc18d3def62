// SPDX-License-Identifier: AGPL-3.0-or-later

/** Provider {@code cluster}: nodes that have joined the program's cluster. */
package io.remora.provider.cluster;
