// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Predicate;

/** Runs another program to see what it says. */
final class ChildProgram {

  private static final Duration END = Duration.ofSeconds(10);

  private ChildProgram() {}

  /**
   * What a program said.
   *
   * @param exitCode its exit code; -1 if it had to be killed
   * @param out its standard output
   * @param err its standard error
   */
  record Result(int exitCode, List<String> out, List<String> err) {

    /** The last line of standard error, or else of standard output. */
    String lastLine() {
      List<String> lines = err.isEmpty() ? out : err;
      return lines.isEmpty() ? "it printed nothing" : lines.get(lines.size() - 1).strip();
    }
  }

  /**
   * Runs a program until it ends, prints a certain line, or takes too long. Its standard input ends
   * after that line.
   *
   * @param enough whether this line of standard output is what was wanted
   * @throws IOException if it cannot be started
   */
  static Result run(
      List<String> command,
      Map<String, String> environment,
      Duration limit,
      Predicate<String> enough)
      throws IOException {
    ProcessBuilder builder = new ProcessBuilder(command);
    builder.environment().putAll(environment);
    Process process = builder.start();
    CompletableFuture<Void> wanted = new CompletableFuture<>();
    CompletableFuture<List<String>> out = lines(process.getInputStream(), enough, wanted);
    CompletableFuture<List<String>> err = lines(process.getErrorStream(), line -> false, wanted);
    try {
      CompletableFuture.anyOf(wanted, process.onExit())
          .get(limit.toMillis(), TimeUnit.MILLISECONDS);
      process.getOutputStream().close();
      boolean ended = process.waitFor(END.toMillis(), TimeUnit.MILLISECONDS);
      return new Result(ended ? process.exitValue() : -1, rest(out, process), rest(err, process));
    } catch (TimeoutException e) {
      process.destroyForcibly();
      return new Result(-1, rest(out, process), rest(err, process));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException("interrupted while " + command.get(0) + " ran", e);
    } catch (ExecutionException e) {
      throw new IOException(e.getCause());
    } finally {
      process.destroyForcibly();
    }
  }

  private static List<String> rest(CompletableFuture<List<String>> lines, Process process)
      throws IOException {
    try {
      return lines.get(END.toMillis(), TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException("interrupted", e);
    } catch (ExecutionException | TimeoutException e) {
      process.destroyForcibly();
      return List.of();
    }
  }

  private static CompletableFuture<List<String>> lines(
      InputStream stream, Predicate<String> enough, CompletableFuture<Void> wanted) {
    CompletableFuture<List<String>> all = new CompletableFuture<>();
    Thread reader =
        new Thread(
            () -> {
              try (BufferedReader text =
                  new BufferedReader(new InputStreamReader(stream, StandardCharsets.UTF_8))) {
                all.complete(
                    text.lines()
                        .peek(
                            line -> {
                              if (enough.test(line)) {
                                wanted.complete(null);
                              }
                            })
                        .toList());
              } catch (IOException | RuntimeException e) {
                all.completeExceptionally(e);
              }
            },
            "remora-doctor-reader");
    reader.setDaemon(true);
    reader.start();
    return all;
  }
}
