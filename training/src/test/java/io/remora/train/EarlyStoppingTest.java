// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("fast")
final class EarlyStoppingTest {

  @Test
  void stopsAfterMoreValuesWithoutImprovementThanItsPatience() {
    EarlyStopping stopping = new EarlyStopping(EarlyStopping.Mode.MIN, 1, 0.1);

    assertThat(stopping.stop(2)).isFalse();
    assertThat(stopping.improved()).isTrue();
    assertThat(stopping.stop(1.95)).isFalse(); // less than the threshold
    assertThat(stopping.improved()).isFalse();
    assertThat(stopping.stop(1.8)).isFalse();
    assertThat(stopping.stop(Double.NaN)).isFalse();
    assertThat(stopping.stop(1.8)).isTrue();
    assertThat(stopping.best()).isEqualTo(1.8);
    assertThat(stopping.bestIndex()).isEqualTo(2);
  }

  @Test
  void largerValuesCanBeBetter() {
    EarlyStopping stopping = new EarlyStopping(EarlyStopping.Mode.MAX, 0, 0);

    assertThat(stopping.stop(0.5)).isFalse();
    assertThat(stopping.stop(0.6)).isFalse();
    assertThat(stopping.stop(0.6)).isTrue();
  }

  @Test
  void continuesFromItsState() {
    EarlyStopping first = new EarlyStopping(EarlyStopping.Mode.MIN, 1, 0);
    first.stop(1);
    first.stop(2);
    EarlyStopping second = new EarlyStopping(EarlyStopping.Mode.MIN, 1, 0);
    second.restore(first.state());

    assertThat(second.stop(1.5)).isTrue();
    assertThat(second.best()).isEqualTo(1);
  }
}
