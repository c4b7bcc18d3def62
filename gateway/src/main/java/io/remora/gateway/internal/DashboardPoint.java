// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import java.util.Collection;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.regex.Pattern;

/**
 * What the plots show of one machine, or of all, at one time: what happened in each second since
 * the observation before, and what there was. The one place that makes rates of counters.
 *
 * @param operations operations executed a second
 * @param batches batches executed a second
 * @param sent bytes of batches a second
 * @param received bytes of large values a second
 * @param roundTrips measured round trips since the observation before
 * @param roundTripSeconds the sum of their times
 * @param memory bytes of storages
 * @param resident bytes of the node's process that are in its computer's memory; NaN if not known
 * @param reserved bytes that libtorch's allocators have taken from accelerators; NaN if not known
 * @param inFlight bytes submitted and not acknowledged
 * @param waits for each cause, the seconds that threads have waited, a second
 */
record DashboardPoint(
    double operations,
    double batches,
    double sent,
    double received,
    double roundTrips,
    double roundTripSeconds,
    double memory,
    double resident,
    double reserved,
    double inFlight,
    SortedMap<String, Double> waits) {

  private static final Pattern RESERVED = Pattern.compile("device[.]\\d+[.]reserved[.]bytes");
  private static final String WAITS = "waits.";
  private static final String SECONDS = ".seconds";
  private static final String COUNT = ".count";

  DashboardPoint {
    waits = new TreeMap<>(waits);
  }

  /**
   * The point between two observations of a machine's figures. A counter that has become smaller
   * belongs to a machine that was opened again, and counts from zero.
   *
   * @param seconds the time between the observations
   */
  static DashboardPoint between(
      Map<String, Double> before, Map<String, Double> now, double seconds) {
    SortedMap<String, Double> waits = new TreeMap<>();
    for (String cause : causes(now.keySet())) {
      waits.put(cause, rise(before, now, WAITS + cause + SECONDS) / seconds);
    }
    double time =
        value(now, "round.trip.seconds") * value(now, "round.trips")
            - value(before, "round.trip.seconds") * value(before, "round.trips");
    return new DashboardPoint(
        rise(before, now, "operations.executed") / seconds,
        rise(before, now, "batches.executed") / seconds,
        rise(before, now, "batch.bytes") / seconds,
        rise(before, now, "value.bytes") / seconds,
        rise(before, now, "round.trips"),
        Math.max(0, time),
        value(now, "storage.bytes"),
        now.getOrDefault("node.resident.bytes", Double.NaN),
        now.entrySet().stream()
            .filter(figure -> RESERVED.matcher(figure.getKey()).matches())
            .map(Map.Entry::getValue)
            .reduce(Double::sum)
            .orElse(Double.NaN),
        value(now, "in.flight.bytes"),
        waits);
  }

  /** All machines together. */
  static DashboardPoint sum(Collection<DashboardPoint> points) {
    double[] sums = new double[8];
    double resident = Double.NaN;
    double reserved = Double.NaN;
    SortedMap<String, Double> waits = new TreeMap<>();
    for (DashboardPoint point : points) {
      sums[0] += point.operations;
      sums[1] += point.batches;
      sums[2] += point.sent;
      sums[3] += point.received;
      sums[4] += point.roundTrips;
      sums[5] += point.roundTripSeconds;
      sums[6] += point.memory;
      sums[7] += point.inFlight;
      resident = known(resident, point.resident);
      reserved = known(reserved, point.reserved);
      point.waits.forEach((cause, rate) -> waits.merge(cause, rate, Double::sum));
    }
    return new DashboardPoint(
        sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], resident, reserved, sums[7],
        waits);
  }

  private static double known(double sum, double more) {
    return Double.isNaN(sum) ? more : Double.isNaN(more) ? sum : sum + more;
  }

  /** The causes of the figures {@code waits.<cause>.count} and {@code waits.<cause>.seconds}. */
  static Collection<String> causes(Collection<String> figures) {
    TreeMap<String, Boolean> causes = new TreeMap<>();
    for (String figure : figures) {
      for (String end : new String[] {SECONDS, COUNT}) {
        if (figure.startsWith(WAITS)
            && figure.endsWith(end)
            && figure.length() > WAITS.length() + end.length()) {
          causes.put(figure.substring(WAITS.length(), figure.length() - end.length()), true);
        }
      }
    }
    return causes.keySet();
  }

  /** The mean time of a round trip, in milliseconds; NaN if none was measured. */
  double roundTripMillis() {
    return roundTrips == 0 ? Double.NaN : roundTripSeconds / roundTrips * 1e3;
  }

  private static double rise(Map<String, Double> before, Map<String, Double> now, String figure) {
    double rise = value(now, figure) - value(before, figure);
    return rise < 0 ? value(now, figure) : rise;
  }

  private static double value(Map<String, Double> figures, String figure) {
    return figures.getOrDefault(figure, 0.0);
  }
}
