// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Operators give the same results on a remote device as on the CPU. */
final class OperatorWalkTest {

  private static final Duration STEP_LIMIT = Duration.ofSeconds(30);

  private static final Set<String> COMMON =
      Set.of(
          "add.Tensor",
          "sub.Tensor",
          "mul.Tensor",
          "div.Tensor",
          "add_.Tensor",
          "mul_.Tensor",
          "add.out",
          "neg",
          "exp",
          "log",
          "sqrt",
          "tanh",
          "sigmoid",
          "relu",
          "relu_",
          "gelu",
          "softmax.int",
          "log_softmax.int",
          "mm",
          "bmm",
          "matmul",
          "linear",
          "addmm",
          "conv2d",
          "convolution_backward",
          "max_pool2d",
          "avg_pool2d",
          "native_layer_norm.out",
          "batch_norm",
          "embedding",
          "nll_loss",
          "cross_entropy_loss",
          "mse_loss",
          "sum",
          "sum.dim_IntList",
          "mean",
          "max",
          "argmax",
          "sort",
          "topk",
          "cat",
          "stack",
          "index.Tensor",
          "index_put_",
          "gather",
          "scatter_.src",
          "where.self",
          "masked_select",
          "nonzero",
          "view",
          "reshape",
          "transpose.int",
          "permute",
          "expand",
          "slice.Tensor",
          "select.int",
          "as_strided",
          "clone",
          "copy_",
          "zero_",
          "fill_.Scalar",
          "dropout",
          "randn",
          "bernoulli",
          "scaled_dot_product_attention");

  @TempDir private Path logs;

  @Test
  @Tag("fast")
  @Timeout(value = 3, unit = TimeUnit.MINUTES)
  void commonOperators() throws Exception {
    OperatorReport report = walk(List.copyOf(new TreeSet<>(COMMON)), 1, message -> {});

    Set<String> failed = failed(report);
    failed.removeAll(knownFailures());
    assertThat(failed).as("overloads that fail and did not before").isEmpty();
    assertThat(report.notCovered()).isEmpty();
  }

  /**
   * All takes about four minutes on two cores. It then also writes its findings to {@code
   * target/operators.md}; copy the file to {@code docs} if they are better than those there.
   *
   * <p>With {@code -Dremora.walk.parts=3 -Dremora.walk.part=0} it walks the first of three parts,
   * by the operators' names. Continuous integration takes the next part after each commit.
   */
  @Test
  @Tag("full")
  @Timeout(value = 15, unit = TimeUnit.MINUTES)
  void everyOperator() throws Exception {
    int parts = Integer.getInteger("remora.walk.parts", 1);
    int part = Integer.getInteger("remora.walk.part", 0);
    List<String> names =
        OperatorSchema.all().stream().map(OperatorSchema::shortName).distinct().sorted().toList();
    Set<String> walked = new TreeSet<>();
    for (int i = part; i < names.size(); i += parts) {
      walked.add(names.get(i));
    }
    List<String> overloads =
        OperatorSchema.all().stream()
            .filter(schema -> walked.contains(schema.shortName()))
            .map(OperatorSchema::key)
            .toList();
    Set<String> known = knownFailures();
    known.retainAll(Set.copyOf(overloads));

    OperatorReport report = walk(overloads, 2, System.out::println);

    assertThat(failed(report))
        .as("overloads that fail; those of the lists of known failures that pass must go from them")
        .containsExactlyInAnyOrderElementsOf(known);
    assertThat(report.notCovered())
        .as("overloads without inputs and without a reason")
        .noneMatch(entry -> entry.notCovered().startsWith("no inputs found"));
    if (!onAccelerators()) {
      String page = Files.readString(Path.of("..", "docs", "operators.md"));
      assertThat(page).as("what passed").contains(report.rows());
      if (parts == 1) {
        report.write(Path.of("target", "operators.md"));
        assertThat(page)
            .as("the figures; target/operators.md has the file as it should be")
            .contains(report.figures());
      }
    }
  }

  /** Whether the nodes compute on simulated accelerators: see docs/testing.md. */
  private static boolean onAccelerators() {
    return !System.getProperty("remora.provider.mock.device", "cpu").equals("cpu");
  }

  private static Set<String> knownFailures() {
    Set<String> known = OperatorReport.failures("known-failures.txt");
    if (onAccelerators()) {
      known.addAll(OperatorReport.failures("accelerator-failures.txt"));
    }
    return known;
  }

  private static Set<String> failed(OperatorReport report) {
    return report.failed().stream()
        .map(OperatorWalk.Entry::operator)
        .collect(Collectors.toCollection(TreeSet::new));
  }

  private OperatorReport walk(List<String> operators, int processes, Consumer<String> progress)
      throws IOException, InterruptedException {
    long start = System.nanoTime();
    OperatorWalk walk = new OperatorWalk(operators, processes, STEP_LIMIT, logs, progress);
    OperatorReport report = new OperatorReport(walk.run().values());
    System.out.printf(
        "%s; %d s%n%s",
        report.summary(),
        Duration.ofNanos(System.nanoTime() - start).toSeconds(),
        report.failures());
    return report;
  }
}
