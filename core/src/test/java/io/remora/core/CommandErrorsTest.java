// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.concurrent.Callable;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.IExitCodeGenerator;
import picocli.CommandLine.Option;

@Tag("critical")
class CommandErrorsTest {

  private final StringWriter err = new StringWriter();

  @Test
  void aWrongCommandLineIsExplainedInTwoLines() {
    assertThat(execute("--number", "x")).isEqualTo(2);
    assertThat(err.toString().lines())
        .containsExactly(
            "remora-test: Invalid value for option '--number': 'x' is not an int", "Try --help.");
  }

  @Test
  void anExceptionWithAnExitCodeIsExplainedByItsMessage() {
    assertThat(execute("--number", "5")).isEqualTo(5);
    assertThat(err.toString().lines()).containsExactly("remora-test: ends with 5");
  }

  @Test
  void anyOtherExceptionIsAFailureOfTheProgram() {
    assertThat(execute("--number", "0")).isEqualTo(1);
    assertThat(err.toString().lines())
        .containsExactly("remora-test: failed: java.lang.IllegalStateException: broken");
  }

  private int execute(String... arguments) {
    return CommandErrors.reportedBy(new CommandLine(new Program()))
        .setErr(new PrintWriter(err, true))
        .execute(arguments);
  }

  @Command(name = "remora-test")
  private static final class Program implements Callable<Integer> {

    @Option(names = "--number")
    private int number;

    @Override
    public Integer call() {
      if (number == 0) {
        throw new IllegalStateException("broken");
      }
      throw new Explained(number);
    }
  }

  private static final class Explained extends RuntimeException implements IExitCodeGenerator {

    private static final long serialVersionUID = 1L;

    private final int exitCode;

    Explained(int exitCode) {
      super("ends with " + exitCode);
      this.exitCode = exitCode;
    }

    @Override
    public int getExitCode() {
      return exitCode;
    }
  }
}
