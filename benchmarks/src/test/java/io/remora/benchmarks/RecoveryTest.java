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
final class RecoveryTest {

  @Test
  void eachRunHasTheBitsOfTheLocalCpu() {
    StringWriter output = new StringWriter();

    int exitCode =
        Recovery.commandLine()
            .setOut(new PrintWriter(output))
            .execute("--steps", "20,60", "--checkpoint-interval", "1");

    assertThat(exitCode).as(output.toString()).isZero();
    assertThat(output.toString().lines().filter(line -> line.endsWith("equal"))).hasSize(2);
  }
}
