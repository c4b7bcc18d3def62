// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The program on the README's first screen prints what the README says. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ReadmeProgramTest {

  private static final Pattern FIRST_PROGRAM =
      Pattern.compile("```java\\n(.*?)```", Pattern.DOTALL);

  @TempDir private Path directory;

  @Test
  void printsTheSum() throws IOException, InterruptedException {
    ProgramRunner.Outcome outcome =
        new ProgramRunner(directory).run("ReadmeProgram", asClass(firstProgram()));

    assertThat(outcome.exitCode()).as(outcome.errors()).isZero();
    // The sum of max(0, x) over a million x, each a sum of 1000 products of normal numbers.
    float sum = Float.parseFloat(lastLine(outcome.output()));
    assertThat(sum).isBetween(11e6f, 14.5e6f);
  }

  @Test
  void isTheQuickStartExample() throws IOException {
    Path quickStart =
        Path.of("../examples/src/main/java/io/remora/examples/QuickStart.java").normalize();

    assertThat(withoutIndent(Files.readString(quickStart))).contains(withoutIndent(firstProgram()));
  }

  private static String firstProgram() throws IOException {
    Matcher matcher = FIRST_PROGRAM.matcher(Files.readString(Path.of("../README.md")));
    assertThat(matcher.find()).as("README.md has a block of Java").isTrue();
    return matcher.group(1);
  }

  private static String asClass(String program) {
    return """
        import static org.bytedeco.pytorch.global.torch.ScalarType;
        import static org.bytedeco.pytorch.global.torch.randn;

        import io.remora.client.RemoteMachine;
        import org.bytedeco.pytorch.Tensor;

        public class ReadmeProgram {
          public static void main(String[] args) {
        %s
          }
        }
        """
        .formatted(program);
  }

  private static String lastLine(String text) {
    String[] lines = text.strip().split("\n", -1);
    return lines[lines.length - 1];
  }

  private static String withoutIndent(String text) {
    return text.lines().map(String::strip).reduce("", (all, line) -> all + line + "\n");
  }
}
