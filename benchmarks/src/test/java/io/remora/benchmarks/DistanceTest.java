// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigUtil;
import java.nio.file.Path;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Tag("full")
@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class DistanceTest {

  @TempDir private Path directory;

  @Test
  void aProgramWaitsForValuesOnlyWhereverItsNodeIs() {
    Path file = directory.resolve("figures.json");

    int exitCode = Distance.commandLine().execute("--rtt", "5", "--json", file.toString());

    assertThat(exitCode).isZero();
    Config json = ConfigFactory.parseFile(file.toFile());
    Config column = json.getConfig(ConfigUtil.joinPath("5 ms"));
    assertThat(figure(column, "waits for values")).isPositive();
    assertThat(figure(column, "waits for shapes")).isZero();
    assertThat(figure(column, "waits for metadata")).isZero();
    // Each step or token that reads a value takes a round trip at least.
    assertThat(figure(column, "GPT step, loss read each step, ms")).isGreaterThan(5);
    assertThat(figure(column, "token of a known length, cache, ms")).isGreaterThan(5);
    assertThat(figure(json.getConfig("local"), "ResNet step with upload, ms")).isPositive();
  }

  private static double figure(Config column, String name) {
    return column.getDouble(ConfigUtil.joinPath(name));
  }
}
