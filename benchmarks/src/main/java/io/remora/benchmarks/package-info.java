// SPDX-License-Identifier: AGPL-3.0-or-later

/** Measurements of Remora against local libtorch. */
package io.remora.benchmarks;
