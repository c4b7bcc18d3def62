// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;

/** That everything is measured and written, not how fast it is: that is for people to read. */
@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class CompareTest {

  private static final List<String> FIGURES =
      List.of(
          "chainedAdds8x8",
          "chainedAdds256x256",
          "pureViews",
          "roundTripP50",
          "roundTripP99",
          "nonzero",
          "unique",
          "maskedSelect",
          "upload",
          "download",
          "uploadSmall",
          "downloadSmall",
          "element",
          "mlpTraining",
          "gptTraining",
          "convolutionTraining",
          "generation",
          "firstSecondAdds",
          "firstSecondItems");

  @TempDir private Path directory;

  @Test
  @Tag("full")
  void writesEveryFigureAsJson() {
    Path file = directory.resolve("figures.json");
    StringWriter output = new StringWriter();

    int exitCode = run(output, "--quick", "--json", file.toString());

    assertThat(exitCode).as(output.toString()).isZero();
    Config json = ConfigFactory.parseFile(file.toFile());
    assertThat(json.getConfig("figures").root().keySet())
        .containsExactlyInAnyOrderElementsOf(FIGURES);
    for (String key : FIGURES) {
      Config figure = json.getConfig("figures." + key);
      assertThat(figure.getDouble("local")).as(key).isPositive();
      assertThat(figure.getDouble("remote")).as(key).isPositive();
      assertThat(figure.getDouble("ratio")).as(key).isPositive();
      assertThat(figure.getDoubleList("remoteRuns"))
          .as(key)
          .hasSize(key.startsWith("firstSecond") ? 1 : 2);
    }
    assertThat(json.getDouble("figures.roundTripP50.multipleOfBare")).isPositive();
    assertThat(json.getDouble("figures.upload.multipleOfBare")).isPositive();
    assertThat(json.getDouble("wireBytesPerOperation.\"chainedAdds8x8.first\""))
        .isPositive()
        .isLessThanOrEqualTo(30);
    assertThat(json.getDouble("wireBytesPerOperation.\"chainedAdds8x8.repeated\""))
        .isPositive()
        .isLessThanOrEqualTo(4);
    assertThat(json.getInt("machine.computeThreadsRemote")).isEqualTo(1);
    assertThat(json.getString("machine.libtorch")).startsWith("2.");
    assertThat(json.getLong("peakResidentBytes.childProcesses")).isPositive();
    assertThat(output.toString())
        .contains("chained adds 8x8", "download 64 MiB", "target", "ping-pong");
  }

  @Test
  @Tag("full")
  void measuresOnlyTheFiguresAskedFor() {
    Path file = directory.resolve("figures.json");
    StringWriter output = new StringWriter();

    int exitCode = run(output, "--quick", "--only", "uploadSmall", "--json", file.toString());

    assertThat(exitCode).as(output.toString()).isZero();
    assertThat(ConfigFactory.parseFile(file.toFile()).getConfig("figures").root().keySet())
        .containsExactly("uploadSmall");
  }

  @Test
  @Tag("critical")
  void refusesNegativeNumbers() {
    assertThat(run(new StringWriter(), "--repeats", "-1")).isEqualTo(CommandLine.ExitCode.USAGE);
  }

  private static int run(StringWriter output, String... arguments) {
    CommandLine commandLine = Compare.commandLine();
    commandLine.setOut(new PrintWriter(output, true));
    commandLine.setErr(new PrintWriter(output, true));
    return commandLine.execute(arguments);
  }
}
