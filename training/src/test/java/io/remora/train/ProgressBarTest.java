// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;

import java.io.ByteArrayOutputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("fast")
final class ProgressBarTest {
  private final ByteArrayOutputStream written = new ByteArrayOutputStream();
  private final PrintStream out = new PrintStream(written, true, StandardCharsets.UTF_8);
  private final AtomicLong nanos = new AtomicLong(-5);

  @Test
  void drawsABarWithRateAndRemainingTimeOnATerminal() {
    try (ProgressBar bar = new ProgressBar("epoch 1", 100, out, true, nanos::get)) {
      bar.message("loss 0.42");
      nanos.addAndGet(1_000_000_000);
      bar.advance(20);
      assertThat(text())
          .isEqualTo(
              "\repoch 1  20% [######                        ] 20/100  20.0/s  4s left  loss 0.42");
      bar.step(); // too soon to draw again
      assertThat(text()).doesNotContain("21/100");
      nanos.addAndGet(100_000_000);
      bar.step();
      assertThat(text()).contains("22/100");
    }
    assertThat(text()).endsWith(System.lineSeparator()).contains("  in 2s  loss 0.42");
  }

  @Test
  void writesOneLineWhereThereIsNoTerminal() {
    ProgressBar bar = new ProgressBar("epoch 1", 50, out, false, nanos::get);
    for (int i = 0; i < 50; i++) {
      nanos.addAndGet(2_000_000_000);
      bar.step();
    }
    assertThat(text()).isEmpty();
    bar.close();
    bar.close();
    assertThat(text()).isEqualTo("epoch 1 100% 50/50  0.5/s  in 1:40" + System.lineSeparator());
  }

  @Test
  void countsWhereTheTotalIsUnknown() {
    try (ProgressBar bar = new ProgressBar("tokens", 0, out, false, nanos::get)) {
      nanos.addAndGet(2_000_000_000);
      bar.advance(10);
    }
    assertThat(text()).isEqualTo("tokens 10  5.0/s  in 2s" + System.lineSeparator());
  }

  @Test
  void neverThrows() {
    PrintStream broken =
        new PrintStream(OutputStream.nullOutputStream()) {
          @Override
          public void print(String text) {
            throw new IllegalStateException("broken");
          }
        };
    assertThatCode(
            () -> {
              try (ProgressBar bar = new ProgressBar(null, -3, broken, true, nanos::get)) {
                bar.message(null);
                bar.advance(-7);
                nanos.addAndGet(1_000_000_000);
                bar.step();
              }
            })
        .doesNotThrowAnyException();
  }

  private String text() {
    return written.toString(StandardCharsets.UTF_8);
  }
}
