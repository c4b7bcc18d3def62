// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.metrics;

import io.prometheus.metrics.model.registry.Collector;
import io.prometheus.metrics.model.snapshots.ClassicHistogramBuckets;
import io.prometheus.metrics.model.snapshots.HistogramSnapshot;
import io.prometheus.metrics.model.snapshots.HistogramSnapshot.HistogramDataPointSnapshot;
import io.prometheus.metrics.model.snapshots.Labels;
import io.prometheus.metrics.model.snapshots.Unit;
import io.remora.actors.internal.MachineFigures;
import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;

/**
 * The round trips of each open machine, as a Prometheus histogram. Micrometer's own histogram would
 * need a call for each batch; this one reads existing counters when it is asked. The count is the
 * sum of the buckets, so they always agree. Thread-safe.
 */
final class RoundTripHistogram implements Collector {

  /** The name of Micrometer's meter, which has only sum and count. */
  static final String METER = "remora.round.trip";

  static final String HELP = "From a batch on the line to its acknowledgement";

  private static final String NAME = "remora_round_trip_seconds";

  @Override
  public HistogramSnapshot collect() {
    double[] finite = MachineFigures.roundTripBounds();
    double[] bounds = Arrays.copyOf(finite, finite.length + 1);
    bounds[finite.length] = Double.POSITIVE_INFINITY;
    Map<String, MachineFigures> machines = new TreeMap<>();
    MachineFigures.all().forEach(figures -> machines.put(figures.machine(), figures));
    HistogramSnapshot.Builder histogram =
        HistogramSnapshot.builder().name(NAME).help(HELP).unit(Unit.SECONDS);
    machines.forEach(
        (machine, figures) ->
            histogram.dataPoint(
                HistogramDataPointSnapshot.builder()
                    .classicHistogramBuckets(
                        ClassicHistogramBuckets.of(bounds, figures.roundTrips()))
                    .sum(figures.roundTripNanos() * 1e-9)
                    .labels(Labels.of("machine", machine))
                    .build()));
    return histogram.build();
  }
}
