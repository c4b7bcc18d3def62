// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import io.remora.runtime.TorchLibrary;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** The findings of a walk, as text. */
final class OperatorReport {

  /** The origin of metadata where a call records no operator. */
  static final String NOT_RECORDED = "program";

  private static final List<String> ORIGINS =
      List.of(NOT_RECORDED, "view", "rule", "libtorch", "question", "data");
  private static final Map<String, String> DTYPES = dtypes();

  private final Collection<OperatorWalk.Entry> entries;

  /** Short names, in the order in which they are shown. */
  private static Map<String, String> dtypes() {
    Map<String, String> names = new LinkedHashMap<>();
    names.put("Float", "f32");
    names.put("Double", "f64");
    names.put("BFloat16", "bf16");
    names.put("Half", "f16");
    names.put("Float8_e4m3fn", "f8e4");
    names.put("Float8_e5m2", "f8e5");
    names.put("ComplexFloat", "c64");
    names.put("ComplexDouble", "c128");
    names.put("ComplexHalf", "c32");
    names.put("Long", "i64");
    names.put("Int", "i32");
    names.put("Short", "i16");
    names.put("Char", "i8");
    names.put("UInt64", "u64");
    names.put("UInt32", "u32");
    names.put("UInt16", "u16");
    names.put("Byte", "u8");
    names.put("Bool", "bool");
    return names;
  }

  OperatorReport(Collection<OperatorWalk.Entry> entries) {
    this.entries = entries;
  }

  /**
   * Walks every operator, prints what fails and writes the report.
   *
   * @param args the report's file, and a directory for the walking processes' logs; after them,
   *     optionally, the only operators or overloads to walk, about which it prints more
   */
  public static void main(String[] args) throws Exception {
    TorchLibrary.bytedeco();
    Set<String> some = Set.copyOf(List.of(args).subList(2, args.length));
    List<String> operators =
        OperatorSchema.all().stream()
            .filter(s -> some.isEmpty() || some.contains(s.key()) || some.contains(s.shortName()))
            .map(OperatorSchema::key)
            .toList();
    OperatorWalk walk =
        new OperatorWalk(
            operators,
            some.isEmpty() ? 2 : 1,
            Duration.ofSeconds(30),
            Path.of(args[1]),
            System.out::println);
    OperatorReport report = new OperatorReport(walk.run().values());
    report.write(Path.of(args[0]));
    if (!some.isEmpty()) {
      report.entries.forEach(System.out::println);
    }
    System.out.println(report.summary());
  }

  /** Overloads that are known to differ, from a resource of this package. */
  static Set<String> failures(String resource) {
    try (InputStream stream = OperatorReport.class.getResourceAsStream(resource);
        BufferedReader lines =
            new BufferedReader(new InputStreamReader(stream, StandardCharsets.UTF_8))) {
      return lines
          .lines()
          .map(String::strip)
          .filter(line -> !line.isEmpty() && !line.startsWith("#"))
          .collect(Collectors.toCollection(TreeSet::new));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  List<OperatorWalk.Entry> passed() {
    return entries.stream().filter(OperatorWalk.Entry::passed).toList();
  }

  List<OperatorWalk.Entry> failed() {
    return entries.stream().filter(e -> !e.failures().isEmpty()).toList();
  }

  List<OperatorWalk.Entry> notCovered() {
    return entries.stream().filter(e -> e.failures().isEmpty() && !e.passed()).toList();
  }

  String summary() {
    int equal = entries.stream().mapToInt(OperatorWalk.Entry::equal).sum();
    int threw = entries.stream().mapToInt(OperatorWalk.Entry::bothThrew).sum();
    return "%d overloads: %d passed, %d failed, %d not covered; %d calls gave the same, %d threw on both"
        .formatted(
            entries.size(), passed().size(), failed().size(), notCovered().size(), equal, threw);
  }

  /** The table of how many overloads passed, failed and were not covered. */
  String figures() {
    return "| | overloads |\n|---|---|\n| passed | %d |\n| failed | %d |\n| not covered | %d |\n\n"
        .formatted(passed().size(), failed().size(), notCovered().size());
  }

  /** One line for each failure. */
  String failures() {
    StringBuilder text = new StringBuilder();
    for (OperatorWalk.Entry entry : failed()) {
      for (OperatorTrials.Failure failure : entry.failures()) {
        text.append(
            "%s %s %s, %s: %s%n"
                .formatted(
                    failure.kind(),
                    failure.operator(),
                    failure.sample(),
                    failure.variant(),
                    failure.message()));
      }
    }
    return text.toString();
  }

  /** Writes {@code docs/operators.md}. */
  void write(Path file) throws IOException {
    StringBuilder text = new StringBuilder();
    text.append(
        """
        # Operators

        Written by `OperatorReport` (in the tests of [client-api](../client-api)): every operator of libtorch's namespace `aten`, called with the same
        inputs on the local CPU and on a remote CPU. Results must have the same bits (any NaN equals any NaN), dtype, shape and
        strides, share memory with the same arguments, and change the same arguments; where the CPU throws, the remote device
        must throw. No tolerance is used anywhere.

        Inputs: contiguous, transposed, strided with an offset, channels_last, expanded, empty, 0-dim, with NaN and infinities,
        lazily conjugated and negated; out arguments empty, of the right size, and transposed. These in f32, or what the operator
        takes instead; in the other dtypes contiguous inputs. The test `OperatorWalkTest` repeats this: for common operators in
        the fast tier, for all in the full tier, where it also compares this file's tables of figures and of operators that passed.
        `FuzzedSequencesTest` compares random sequences of views, writes and gradients.

        """);
    text.append(figures());
    failing(text);
    covered(text);
    uncovered(text);
    leftOut(text);
    Files.writeString(file, text.toString().replace("\r\n", "\n"));
  }

  private void failing(StringBuilder text) {
    if (failed().isEmpty()) {
      return;
    }
    text.append("## Failing\n\nWith some of the inputs; the first difference of each.\n\n");
    text.append("| overload | inputs | difference |\n|---|---|---|\n");
    for (OperatorWalk.Entry entry : failed()) {
      OperatorTrials.Failure first = entry.failures().get(0);
      text.append(
          "| `%s` | `%s` %s | %s: %s |%n"
              .formatted(
                  entry.operator(),
                  cell(first.sample(), 90),
                  first.variant(),
                  first.kind().toLowerCase(java.util.Locale.ROOT),
                  cell(first.message(), 160)));
    }
    text.append('\n');
  }

  private static String cell(String text, int length) {
    String shown = text.length() > length ? text.substring(0, length) + "…" : text;
    return shown.replace("|", "/").replace('`', '\'').replaceAll("\"/\\S*/", "\"");
  }

  private void covered(StringBuilder text) {
    TreeMap<String, List<OperatorWalk.Entry>> byName = new TreeMap<>();
    for (OperatorWalk.Entry entry : passed()) {
      byName.computeIfAbsent(name(entry), n -> new ArrayList<>()).add(entry);
    }
    text.append(
        """
        ## Passed

        Overloads that passed, and the dtypes in which the call and its gradients were compared; `twice`: gradients of gradients,
        `forward mode`: tangents, both in f64. Values that libtorch leaves undefined (`empty`, say), or in which the CPU
        differs from itself (`linalg_lstsq`, by the alignment of its working memory), are not compared; such operators carry a
        star.

        `metadata`: where the program has the sizes, strides and dtypes of the results from, as its native core has counted in these
        calls. `program`: nothing is recorded, because the call makes only a view or a tensor without values. `view`: views of the
        arguments. `rule`: a rule of Remora's. `libtorch`: libtorch's own code on tensors without memory. `question`: the node is asked,
        once for such arguments. `data`: the node is asked each time, because the results depend on values. An operator that calls
        others has the origins of those. Only `question` and `data` make the program wait.

        | operator | overloads | forward | backward | and | metadata |
        |---|---|---|---|---|---|
        """);
    byName.forEach(
        (name, found) ->
            text.append(
                "| `%s`%s | %d | %s | %s | %s | %s |%n"
                    .formatted(
                        name,
                        found.stream().anyMatch(OperatorWalk.Entry::undefinedValues) ? " *" : "",
                        found.size(),
                        dtypes(found, true),
                        dtypes(found, false),
                        derivatives(found),
                        origins(found))));
    text.append('\n');
  }

  private static String dtypes(List<OperatorWalk.Entry> entries, boolean forward) {
    Set<String> found =
        entries.stream()
            .flatMap(e -> (forward ? e.forward() : e.backward()).stream())
            .map(dtype -> DTYPES.getOrDefault(dtype, dtype))
            .collect(Collectors.toSet());
    return DTYPES.values().stream().filter(found::contains).collect(Collectors.joining(" "));
  }

  private static String derivatives(List<OperatorWalk.Entry> entries) {
    Set<String> found =
        entries.stream().flatMap(e -> e.derivatives().stream()).collect(Collectors.toSet());
    return Stream.of(Variant.Derivative.DOUBLE_BACKWARD, Variant.Derivative.FORWARD_MODE)
        .map(Enum::name)
        .filter(found::contains)
        .map(name -> name.equals("FORWARD_MODE") ? "forward mode" : "twice")
        .collect(Collectors.joining(", "));
  }

  private static String origins(List<OperatorWalk.Entry> entries) {
    Set<String> found =
        entries.stream().flatMap(e -> e.origins().stream()).collect(Collectors.toSet());
    return ORIGINS.stream().filter(found::contains).collect(Collectors.joining(", "));
  }

  /** The lines of the table of operators that passed. */
  List<String> rows() {
    StringBuilder text = new StringBuilder();
    covered(text);
    return text.toString().lines().filter(line -> line.startsWith("| `")).toList();
  }

  private void uncovered(StringBuilder text) {
    TreeMap<String, TreeSet<String>> byReason = new TreeMap<>();
    for (OperatorWalk.Entry entry : notCovered()) {
      byReason
          .computeIfAbsent(cell(entry.notCovered(), 120), r -> new TreeSet<>())
          .add(entry.operator());
    }
    text.append("## Not covered\n\n| reason | overloads |\n|---|---|\n");
    byReason.forEach(
        (reason, operators) ->
            text.append(
                "| %s (%d) | %s |%n"
                    .formatted(
                        reason,
                        operators.size(),
                        operators.stream()
                            .map(o -> "`" + o + "`")
                            .collect(Collectors.joining(" ")))));
  }

  private static void leftOut(StringBuilder text) {
    text.append(
        """

        ## Inputs left out

        Kinds of inputs with which some operators are not called, and why; they are called with the others.

        | operator and inputs | reason |
        |---|---|
        """);
    Exclusions.trials()
        .forEach((trial, reason) -> text.append("| `%s` | %s |%n".formatted(trial, reason)));
  }

  private static String name(OperatorWalk.Entry entry) {
    int dot = entry.operator().indexOf('.');
    return dot < 0 ? entry.operator() : entry.operator().substring(0, dot);
  }
}
