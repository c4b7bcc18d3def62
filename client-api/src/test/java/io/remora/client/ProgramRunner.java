// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import java.io.IOException;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import javax.tools.JavaCompiler;
import javax.tools.StandardJavaFileManager;
import javax.tools.ToolProvider;

/** Compiles a program and runs it in a JVM of its own, with this one's class path. */
final class ProgramRunner {

  /** Less than the tests' own limit, so that a program that hangs is shown with its errors. */
  private static final int LIMIT_SECONDS = 100;

  private static final String OUTPUT = "output.txt";
  private static final String ERRORS = "errors.txt";

  private final Path directory;

  ProgramRunner(Path directory) {
    this.directory = directory;
  }

  /**
   * The result of a program.
   *
   * @param exitCode of its JVM
   * @param output standard output
   * @param errors standard error, where the log goes as well
   */
  record Outcome(int exitCode, String output, String errors) {}

  /** Compiles {@code source} as {@code className} and runs its main method. */
  Outcome run(String className, String source) throws IOException, InterruptedException {
    return await(start(className, source));
  }

  /**
   * Compiles {@code source} as {@code className} and starts its main method; {@link #await} returns
   * its result.
   */
  Process start(String className, String source) throws IOException {
    compile(className, source);
    return launch("-cp", directory + System.getProperty("path.separator") + classPath(), className);
  }

  /** Starts an executable jar. */
  Process startJar(Path jar) throws IOException {
    return launch("-jar", jar.toString());
  }

  private Process launch(String... arguments) throws IOException {
    List<String> command =
        new ArrayList<>(
            List.of(
                // The program gets its own process group, as in a terminal. Ctrl-C gets its default
                // action, because background jobs may ignore it.
                "setsid",
                "env",
                "--default-signal=INT",
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-Djava.util.concurrent.ForkJoinPool.common.parallelism=2"));
    command.addAll(List.of(arguments));
    return new ProcessBuilder(command)
        .redirectOutput(directory.resolve(OUTPUT).toFile())
        .redirectError(directory.resolve(ERRORS).toFile())
        .start();
  }

  /** What the program has written to standard output so far. */
  String output() throws IOException {
    return Files.readString(directory.resolve(OUTPUT));
  }

  /** Waits for the program's end; kills it if it takes too long. */
  Outcome await(Process process) throws IOException, InterruptedException {
    Path errors = directory.resolve(ERRORS);
    try {
      if (!process.waitFor(LIMIT_SECONDS, TimeUnit.SECONDS)) {
        throw new AssertionError(
            "Still running after %d s:%n%s".formatted(LIMIT_SECONDS, Files.readString(errors)));
      }
    } finally {
      process.destroyForcibly();
    }
    return new Outcome(process.exitValue(), output(), Files.readString(errors));
  }

  /** Compiles {@code source}; fails with the compiler's messages if it does not compile. */
  void compile(String className, String source) throws IOException {
    Path file = directory.resolve(className + ".java");
    Files.writeString(file, source);
    JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
    StringWriter messages = new StringWriter();
    try (StandardJavaFileManager files =
        compiler.getStandardFileManager(null, null, StandardCharsets.UTF_8)) {
      boolean compiled =
          compiler
              .getTask(
                  messages,
                  files,
                  null,
                  List.of("-d", directory.toString(), "-cp", classPath(), "-proc:none"),
                  null,
                  files.getJavaFileObjects(file))
              .call();
      if (!compiled) {
        throw new AssertionError(messages + "\n" + source);
      }
    }
  }

  private static String classPath() {
    return System.getProperty("java.class.path");
  }
}
