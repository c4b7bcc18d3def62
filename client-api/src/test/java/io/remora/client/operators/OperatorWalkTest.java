// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Common operators give on a remote device what they give on the CPU. */
@Timeout(value = 3, unit = java.util.concurrent.TimeUnit.MINUTES)
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
  void commonOperators() throws Exception {
    OperatorReport report = walk(List.copyOf(new TreeSet<>(COMMON)), 1);

    Set<String> failed =
        report.failed().stream().map(OperatorWalk.Entry::operator).collect(Collectors.toSet());
    failed.removeAll(OperatorReport.knownFailures());
    assertThat(failed).as("overloads that fail and did not before").isEmpty();
    assertThat(report.notCovered()).isEmpty();
  }

  private OperatorReport walk(List<String> operators, int processes)
      throws IOException, InterruptedException {
    long start = System.nanoTime();
    OperatorWalk walk = new OperatorWalk(operators, processes, STEP_LIMIT, logs, message -> {});
    OperatorReport report = new OperatorReport(walk.run().values());
    System.out.printf(
        "%s; %d s%n%s",
        report.summary(),
        Duration.ofNanos(System.nanoTime() - start).toSeconds(),
        report.failures());
    for (OperatorWalk.Entry entry : report.notCovered()) {
      System.out.println("not covered: " + entry.operator() + ": " + entry.notCovered());
    }
    return report;
  }
}
