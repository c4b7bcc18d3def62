// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * What can be seen of machines from outside: {@link io.remora.metrics.RemoraMetrics} for
 * Micrometer, and metrics and health over HTTP.
 */
package io.remora.metrics;
