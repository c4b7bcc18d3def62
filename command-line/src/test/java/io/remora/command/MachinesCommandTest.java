// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;

@Tag("critical")
class MachinesCommandTest {

  private final StringWriter out = new StringWriter();
  private final StringWriter err = new StringWriter();

  @BeforeEach
  void fill() {
    LeavingProvider.fill();
  }

  @Test
  void listsWhatRunsAndLeavesItAlone() {
    assertThat(run("machines", "--provider", "leaving")).isZero();

    assertThat(out.toString().lines())
        .containsExactly(
            "sb-1  machine alive  owner here-1  since 2026-01-01T00:00:00Z",
            "sb-2  machine dead  owner there-2  since 2026-01-01T00:00:00Z  LEFT OVER",
            "2 running, 1 left over");
    assertThat(LeavingProvider.ended()).isEmpty();
  }

  @Test
  void sweepsWhatIsLeftOverAndNothingElse() {
    assertThat(run("machines", "--provider", "leaving", "--sweep")).isZero();

    assertThat(LeavingProvider.ended()).containsExactly("sb-2");
  }

  @Test
  void saysWhatCouldNotBeEnded() {
    LeavingProvider.refuseToEnd();

    assertThat(run("machines", "--provider", "leaving", "--sweep")).isOne();

    assertThat(err.toString()).contains("sb-2  not ended: no longer mine");
  }

  @Test
  void knowsNothingOfProvidersWhoseNodesEndWithTheirProgram() {
    assertThat(run("machines", "--provider", "mock")).isOne();

    assertThat(out.toString()).isEmpty();
    assertThat(err.toString())
        .contains("provider mock keeps no list of its nodes")
        .contains("end with the programs that opened them");
  }

  @Test
  void namesTheProvidersThereAre() {
    assertThat(run("machines", "--provider", "none")).isOne();

    assertThat(err.toString()).contains("unknown provider \"none\"").contains("mock");
  }

  private int run(String... arguments) {
    CommandLine command = Main.commandLine(ConfigFactory.empty(), Map.of());
    command.setOut(new PrintWriter(out, true));
    command.setErr(new PrintWriter(err, true));
    return command.execute(arguments);
  }
}
