// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.entry;
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Rates of counters. */
@Tag("critical")
final class DashboardPointTest {

  @Test
  void makesRatesOfCountersAndKeepsLevels() {
    DashboardPoint point =
        DashboardPoint.between(
            Map.of("operations.executed", 100.0, "batch.bytes", 5.0, "storage.bytes", 7.0),
            Map.of("operations.executed", 150.0, "batch.bytes", 6.0, "storage.bytes", 3.0),
            2);

    assertThat(point.operations()).isEqualTo(25);
    assertThat(point.sent()).isEqualTo(0.5);
    assertThat(point.memory()).isEqualTo(3);
    assertThat(point.roundTripMillis()).isNaN();
  }

  @Test
  void aMachineThatWasOpenedAgainCountsFromZero() {
    DashboardPoint point =
        DashboardPoint.between(
            Map.of("operations.executed", 1_000.0), Map.of("operations.executed", 10.0), 1);

    assertThat(point.operations()).isEqualTo(10);
  }

  @Test
  void takesTheMeanOfTheRoundTripsSinceTheObservationBefore() {
    DashboardPoint point =
        DashboardPoint.between(
            Map.of("round.trips", 10.0, "round.trip.seconds", 0.001),
            Map.of("round.trips", 12.0, "round.trip.seconds", 0.0015),
            1);

    assertThat(point.roundTripMillis()).isCloseTo(4, within(1e-9));
  }

  @Test
  void findsEveryCauseOfWaits() {
    Map<String, Double> now =
        Map.of(
            "waits.value.count", 3.0,
            "waits.value.seconds", 1.5,
            "waits.room.to.send.seconds", 1.0,
            "waits..seconds", 9.0,
            "waits.seconds", 9.0);

    DashboardPoint point = DashboardPoint.between(Map.of("waits.value.seconds", 0.5), now, 2);

    assertThat(point.waits()).containsOnly(entry("value", 0.5), entry("room.to.send", 0.5));
  }

  @Test
  void addsMachinesUp() {
    DashboardPoint one =
        DashboardPoint.between(
            Map.of(),
            Map.of(
                "batches.executed", 1.0,
                "round.trips", 1.0,
                "round.trip.seconds", 0.002,
                "waits.value.seconds", 1.0),
            1);
    DashboardPoint other =
        DashboardPoint.between(
            Map.of(),
            Map.of("batches.executed", 2.0, "round.trips", 3.0, "round.trip.seconds", 0.006),
            1);

    DashboardPoint all = DashboardPoint.sum(List.of(one, other));

    assertThat(all.batches()).isEqualTo(3);
    assertThat(all.roundTripMillis()).isCloseTo(5, within(1e-9));
    assertThat(all.waits()).containsOnly(entry("value", 1.0));
  }
}
