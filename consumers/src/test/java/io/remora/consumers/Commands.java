// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.consumers;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** Runs commands. */
final class Commands {

  private static final int LIMIT_SECONDS = 180;

  private Commands() {}

  /**
   * What a command printed.
   *
   * @param exitCode its exit code
   * @param text its standard output and standard error
   */
  record Result(int exitCode, String text) {

    /** This, after a command that ended well. */
    Result good() {
      assertThat(exitCode).as(text).isZero();
      return this;
    }
  }

  /** Runs a command in a folder with this test's JDK. It prints into a file of the folder. */
  static Result run(Path folder, List<String> words) throws IOException, InterruptedException {
    Path output = Files.createTempFile(folder, "output", ".txt");
    ProcessBuilder builder = new ProcessBuilder(words).directory(folder.toFile());
    builder.environment().put("JAVA_HOME", System.getProperty("java.home"));
    builder.environment().remove("MAVEN_OPTS");
    builder.environment().keySet().removeIf(each -> each.startsWith("MAVEN_CMD_LINE"));
    Process process = builder.redirectErrorStream(true).redirectOutput(output.toFile()).start();
    try {
      process.getOutputStream().close();
      assertThat(process.waitFor(LIMIT_SECONDS, TimeUnit.SECONDS))
          .as("%s ended; it printed %s", words, Files.readString(output))
          .isTrue();
      return new Result(process.exitValue(), Files.readString(output));
    } finally {
      process.descendants().forEach(ProcessHandle::destroyForcibly);
      process.destroyForcibly();
    }
  }

  /** The start of a command that runs a program of this JDK. */
  static String java() {
    return Path.of(System.getProperty("java.home"), "bin", "java").toString();
  }
}
