// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.PrintWriter;
import java.io.StringWriter;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("full")
@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ScaleTest {

  @Test
  void printsARowForEachNumber() {
    StringWriter output = new StringWriter();

    int exitCode =
        Scale.commandLine()
            .setOut(new PrintWriter(output))
            .execute("--operations", "1000,2000", "--storages", "10,100");

    assertThat(exitCode).as(output.toString()).isZero();
    assertThat(output.toString().lines().filter(line -> line.startsWith("2,000 "))).hasSize(1);
    assertThat(output.toString().lines().filter(line -> line.startsWith("100 ")))
        .as("on the machine, and local")
        .hasSize(2);
  }
}
