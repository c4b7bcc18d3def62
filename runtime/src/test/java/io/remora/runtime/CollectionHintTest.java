// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;

import java.time.Duration;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
final class CollectionHintTest {

  private final AtomicLong live = new AtomicLong();
  private final AtomicLong callAt = new AtomicLong(Long.MAX_VALUE);
  private final AtomicInteger collections = new AtomicInteger();
  private long survivors;

  private CollectionHint hint(long growth) {
    SessionSettings settings =
        new SessionSettings(
            1024,
            Duration.ofMillis(1),
            Duration.ofSeconds(1),
            false,
            false,
            growth,
            Duration.ZERO,
            "");
    return new CollectionHint(
        settings,
        live::get,
        callAt::set,
        () -> {
          collections.incrementAndGet();
          live.set(survivors);
        });
  }

  @Test
  void collectsWhenTheBytesHaveGrown() {
    CollectionHint hint = hint(100);
    assertThat(callAt).hasValue(100);
    check(hint, 99);
    assertThat(collections).hasValue(0);
    check(hint, 100);
    assertThat(collections).hasValue(1);
    assertThat(live).hasValue(0);
  }

  @Test
  void leavesAProgramAloneWhoseTensorsAreAllInUse() {
    CollectionHint hint = hint(100);
    survivors = 300;
    check(hint, 300);
    assertThat(callAt).hasValue(400);
    check(hint, 399);
    survivors = 1000;
    check(hint, 1000);
    assertThat(callAt).as("a quarter more").hasValue(1250);
    for (int step = 0; step < 10; step++) {
      check(hint, 1249);
      check(hint, 1000);
    }
    assertThat(collections).hasValue(2);
  }

  @Test
  void doesNothingWhenItIsOff() {
    CollectionHint hint = hint(0);
    check(hint, Long.MAX_VALUE - 1);
    assertThat(collections).hasValue(0);
    assertThat(callAt).hasValue(Long.MAX_VALUE);
  }

  private void check(CollectionHint hint, long bytes) {
    live.set(bytes);
    hint.check();
  }
}
