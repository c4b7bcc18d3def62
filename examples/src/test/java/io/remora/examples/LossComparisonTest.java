// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
final class LossComparisonTest {

  @Test
  void equalBitsAreEqual() {
    float[] losses = {1.5f, Float.NaN, -0f};

    LossComparison comparison = LossComparison.of(losses, losses.clone());

    assertThat(comparison.identical()).isTrue();
    assertThat(comparison)
        .hasToString("3 steps compared, 3 with equal bits, largest difference 0.00 -> EQUAL");
  }

  @Test
  void oneBitMakesTheDifference() {
    float[] local = {2f, 1f, 0f};
    float[] remote = {2f, Math.nextUp(1f), -0f};

    LossComparison comparison = LossComparison.of(local, remote);

    assertThat(comparison.identical()).isFalse();
    assertThat(comparison.equalBits()).isEqualTo(1);
    assertThat(comparison.firstDifference()).isEqualTo(1);
    assertThat(comparison.largestDifference()).isEqualTo(Math.ulp(1f));
    assertThat(comparison.toString()).contains("DIFFERENT from step 2");
  }

  @Test
  void aNumberAgainstNotANumberIsNoMeasurableDifference() {
    assertThat(LossComparison.of(new float[] {1f}, new float[] {Float.NaN}).largestDifference())
        .isNaN();
  }

  @Test
  void seriesOfDifferentLengthsCannotBeCompared() {
    assertThatThrownBy(() -> LossComparison.of(new float[1], new float[2]))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("Cannot compare 1 losses with 2");
  }
}
