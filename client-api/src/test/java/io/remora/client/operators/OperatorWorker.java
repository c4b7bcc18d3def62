// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Set;
import java.util.stream.Collectors;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * The process that {@link OperatorWalk} starts, so that the walk survives whatever an operator
 * does. Reads lines {@code key<tab>steps to skip} and writes a line for each event.
 */
final class OperatorWorker {

  static final String STEP = "@@step";
  static final String FAILURE = "@@failure";
  static final String DONE = "@@done";
  static final String READY = "@@ready";

  private OperatorWorker() {}

  public static void main(String[] args) throws IOException {
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    try (OperatorTrials trials = new OperatorTrials();
        BufferedReader in =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
      write(out, READY);
      for (String line = in.readLine(); line != null; line = in.readLine()) {
        String[] parts = line.split("\t", -1);
        Set<Integer> skipped =
            Arrays.stream(parts[1].split(",", -1))
                .filter(s -> !s.isEmpty())
                .map(Integer::valueOf)
                .collect(Collectors.toSet());
        OperatorTrials.Result result =
            trials.run(trials.schema(parts[0]), skipped, new Printer(out));
        write(
            out,
            DONE,
            names(result.forward()),
            names(result.backward()),
            result.derivatives().stream().map(Enum::name).collect(Collectors.joining(",")),
            String.valueOf(result.equal()),
            String.valueOf(result.bothThrew()),
            String.valueOf(result.undefinedValues()),
            String.join(",", result.origins()),
            result.notCovered());
      }
    }
  }

  private static String names(Set<ScalarType> dtypes) {
    return dtypes.stream().map(ScalarType::toString).collect(Collectors.joining(","));
  }

  private record Printer(PrintStream out) implements OperatorTrials.Listener {
    @Override
    public void step(int number, boolean remote, String description) {
      write(out, STEP, String.valueOf(number), remote ? "remote" : "cpu", description);
    }

    @Override
    public void failure(OperatorTrials.Failure failure) {
      write(
          out,
          FAILURE,
          failure.kind(),
          failure.operator(),
          failure.sample(),
          failure.variant(),
          failure.message());
    }
  }

  private static void write(PrintStream out, String... fields) {
    out.println(
        Arrays.stream(fields)
            .map(f -> f.replace('\t', ' ').replace('\n', ' '))
            .collect(Collectors.joining("\t")));
  }
}
