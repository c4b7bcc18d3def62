// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import static org.assertj.core.api.Assertions.assertThat;

import java.time.Duration;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class BackoffTest {

  @Test
  void doublesUpToTheLongest() {
    Backoff backoff = new Backoff(Duration.ofMillis(100), Duration.ofSeconds(1));
    assertThat(backoff.waitAfter(1)).isEqualTo(Duration.ofMillis(100));
    assertThat(backoff.waitAfter(2)).isEqualTo(Duration.ofMillis(200));
    assertThat(backoff.waitAfter(4)).isEqualTo(Duration.ofMillis(800));
    assertThat(backoff.waitAfter(5)).isEqualTo(Duration.ofSeconds(1));
    assertThat(backoff.waitAfter(Integer.MAX_VALUE)).isEqualTo(Duration.ofSeconds(1));
  }

  @Test
  void isNeverLongerThanTheFirstIfThatIsTheLongest() {
    Backoff backoff = new Backoff(Duration.ofSeconds(2), Duration.ofSeconds(1));
    assertThat(backoff.waitAfter(1)).isEqualTo(Duration.ofSeconds(1));
  }

  @Test
  void addsARandomPart() {
    Backoff backoff = new Backoff(Duration.ofMillis(100), Duration.ofSeconds(1), 0.5);
    for (int i = 0; i < 1_000; i++) {
      assertThat(backoff.waitAfter(1)).isBetween(Duration.ofMillis(100), Duration.ofMillis(150));
    }
    assertThat(backoff.waitAfter(1)).isNotEqualTo(backoff.waitAfter(1));
  }
}
