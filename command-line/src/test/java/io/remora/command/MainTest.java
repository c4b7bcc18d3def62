// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import picocli.CommandLine;

/** The command and its subcommands, which come from the modules on this class path. */
@Tag("critical")
final class MainTest {

  private final StringWriter out = new StringWriter();
  private final StringWriter err = new StringWriter();

  @TempDir private Path folder;

  @Test
  void offersTheCommandsOfTheModulesThatAreThere() {
    assertThat(run("--help")).isZero();

    assertThat(out.toString())
        .contains(
            "Usage: remora", "node", "gateway", "dashboard", "machines", "state", "completion")
        .contains("Examples:", "Exit codes:");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "node",
        "gateway",
        "dashboard",
        "machines",
        "state",
        "record",
        "replay",
        "completion"
      })
  void explainsEachCommand(String name) {
    assertThat(run(name, "--help")).isZero();

    assertThat(out.toString()).contains("Usage: remora " + name);
  }

  @ParameterizedTest
  @ValueSource(strings = {"node", "gateway"})
  void reportsAWrongOptionOfAServerByItsName(String name) {
    assertThat(run(name, "--no-such-option")).isEqualTo(2);

    assertThat(err.toString()).contains("remora " + name + ": ", "--no-such-option", "Try --help.");
  }

  @Test
  void saysWhatToAddForACommandThatIsElsewhere() {
    assertThat(run("bench", "compare", "--quick")).isOne();

    assertThat(err.toString()).contains("remora bench", "add io.remora:remora-benchmarks");
  }

  @Test
  void showsItsHelpWithoutACommand() {
    assertThat(run()).isEqualTo(2);

    assertThat(err.toString()).contains("Usage: remora");
  }

  @Test
  void tellsItsVersion() {
    assertThat(run("--version")).isZero();
    assertThat(run("gateway", "--version")).isZero();

    assertThat(out.toString().lines())
        .satisfiesExactly(
            line -> assertThat(line).startsWith("remora "),
            line -> assertThat(line).startsWith("remora gateway "));
  }

  @Test
  void completesWordsInBash() throws Exception {
    assertThat(run("completion", "bash")).isZero();
    Path script = Files.writeString(folder.resolve("completion"), out.toString());

    assertThat(completed(script, "remora", "ma")).contains("machines").doesNotContain("node");
    assertThat(completed(script, "remora", "machines", "--s")).contains("--sweep");
    assertThat(completed(script, "remora", "re")).contains("record", "replay");
    assertThat(completed(script, "remora", "replay", "--n")).contains("--node");
  }

  @Test
  void aReplaySaysWhatIsWrongWithItsFile() throws IOException {
    Path other = Files.writeString(folder.resolve("other"), "this is no recording at all");
    Path short_ = Files.writeString(folder.resolve("short"), "REM");

    assertThat(run("replay", folder.resolve("none").toString())).isOne();
    assertThat(run("replay", other.toString())).isOne();
    assertThat(run("replay", short_.toString())).isOne();

    assertThat(err.toString().lines())
        .satisfiesExactly(
            line -> assertThat(line).contains("there is no file"),
            line -> assertThat(line).contains("no recording of Remora"),
            line -> assertThat(line).contains("no recording of Remora"));
  }

  @Test
  void aRecordingIsNotWrittenOverAnother() throws IOException {
    Path file = Files.writeString(folder.resolve("run.remora"), "mine");

    assertThat(run("record", file.toString(), "true")).isOne();

    assertThat(err.toString()).contains("is there already");
    assertThat(file).hasContent("mine");
  }

  @Test
  void aRecordedProgramKeepsItsOptionsAndItsExitCode() {
    Path file = folder.resolve("run.remora");

    assertThat(run("record", file.toString(), "sh", "-c", "exit 7")).isEqualTo(7);

    assertThat(err.toString()).contains("the program has opened no machine");
  }

  /** What Bash offers for the last of these words. */
  private static String completed(Path script, String... words)
      throws IOException, InterruptedException {
    String program =
        "source %s; COMP_WORDS=(%s); COMP_CWORD=%d; _complete_remora; echo \"${COMPREPLY[*]}\""
            .formatted(script, String.join(" ", words), words.length - 1);
    Process bash = new ProcessBuilder("bash", "-c", program).redirectErrorStream(true).start();
    String printed = new String(bash.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(bash.waitFor(30, TimeUnit.SECONDS)).isTrue();
    return printed;
  }

  private int run(String... arguments) {
    CommandLine command = Main.commandLine(ConfigFactory.empty(), Map.of());
    command.setOut(new PrintWriter(out, true));
    command.setErr(new PrintWriter(err, true));
    return command.execute(arguments);
  }
}
