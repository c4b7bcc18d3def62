// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
final class MeasurementTest {

  @Test
  void takesMedians() {
    Measurement odd = measurement(true, List.of(3.0, 100.0, 1.0), List.of(6.0));
    Measurement even = measurement(true, List.of(4.0, 1.0, 2.0, 100.0), List.of(6.0));

    assertThat(odd.localMedian()).isEqualTo(3.0);
    assertThat(even.localMedian()).isEqualTo(3.0);
    assertThat(odd.remoteMedian()).isEqualTo(6.0);
  }

  @Test
  void aRatioBelowOneMeansThatRemoteDoesWorse() {
    assertThat(measurement(true, List.of(10.0), List.of(5.0)).ratio()).isEqualTo(0.5);
    assertThat(measurement(false, List.of(5.0), List.of(10.0)).ratio()).isEqualTo(0.5);
  }

  @Test
  void aMultipleIsThatOfTheYardstickInTheSameRounds() {
    Workload.Figure figure =
        new Workload.Figure("key", "title", "us", false, "", Yardstick.PING_PONG);
    Measurement measurement =
        new Measurement(
            figure, List.of(1.0, 1.0, 1.0), List.of(90.0, 80.0, 500.0), List.of(30.0, 99.0, 10.0));

    assertThat(measurement.multiple()).isEqualTo(3.0);
    assertThat(measurement.toJson()).containsEntry("bare", 30.0);
  }

  private static Measurement measurement(
      boolean higherIsBetter, List<Double> local, List<Double> remote) {
    return new Measurement(
        new Workload.Figure("key", "title", "unit", higherIsBetter, ""), local, remote, List.of());
  }
}
