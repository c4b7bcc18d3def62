// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.unique_dim;

import java.util.Arrays;
import java.util.List;
import java.util.function.Function;
import java.util.function.Supplier;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Repeats a call and waits for each result: measures the time from the call to the result. */
@SuppressWarnings("try") // the scopes are opened only to be closed
final class Latency implements Workload {

  private static final long SMALL = 1024; // floats, 4 KiB
  private static final long LARGE = 16L << 20; // floats, 64 MiB

  /** Makes the tensors of one side, which live until the scope around it ends. */
  private final Function<Side, Supplier<Object>> maker;

  private final int times;
  private final List<Figure> figures;

  private Latency(int times, Function<Side, Supplier<Object>> maker, Figure... figures) {
    this.times = times;
    this.maker = maker;
    this.figures = List.of(figures);
  }

  /** {@code (x + y).sum().item()}. */
  static Latency item(int times) {
    return new Latency(
        times,
        side -> {
          Tensor x = randn(8, 8).to(side.device(), ScalarType.Float);
          Tensor y = randn(8, 8).to(side.device(), ScalarType.Float);
          return () -> x.add(y).sum().item_float();
        },
        p50("roundTripP50", "(x+y).sum().item() p50", "<= 2.5 ping-pongs"),
        p50("roundTripP99", "(x+y).sum().item() p99", ""));
  }

  /** Calls whose results have shapes that depend on values. */
  static List<Latency> shapesThatDependOnValues(int times) {
    return List.of(
        onValues("nonzero", times, x -> x.nonzero()),
        onValues("unique", times, x -> unique_dim(x, 0).get0()),
        onValues("maskedSelect", times, x -> x.masked_select(x.gt(new Scalar(0)))));
  }

  private static Latency onValues(String key, int times, Function<Tensor, Tensor> call) {
    return new Latency(
        times,
        side -> {
          Tensor x = randn(64).to(side.device(), ScalarType.Float);
          return () -> call.apply(x).size(0);
        },
        p50(key, key + " of 64, p50", "as an item"));
  }

  /** A download of 4 KiB. */
  static Latency smallDownload(int times) {
    return new Latency(
        times,
        side -> {
          Tensor x = randn(SMALL).to(side.device(), ScalarType.Float);
          return side.device().is_cpu() ? x::clone : x::cpu;
        },
        p50("downloadSmall", "download 4 KiB, p50", "as an item"));
  }

  /** A read of one element of 64 MiB. */
  static Latency element(int times) {
    return new Latency(
        times,
        side -> {
          Tensor x = ones(LARGE).to(side.device(), ScalarType.Float);
          return () -> x.select(0, LARGE / 2).item_float();
        },
        p50("element", "one element of 64 MiB, p50", "as an item"));
  }

  private static Figure p50(String key, String title, String target) {
    return new Figure(key, title, "us", false, target, Yardstick.PING_PONG);
  }

  @Override
  public List<Figure> figures() {
    return figures;
  }

  @Override
  public Prepared prepare(Side side) {
    PointerScope tensors = new PointerScope();
    Supplier<Object> call = maker.apply(side);
    side.synchronize().run();
    return new Prepared() {
      @Override
      public double[] run() {
        long[] nanos = new long[times];
        for (int i = 0; i < times; i++) {
          try (PointerScope temporaries = new PointerScope()) {
            long begin = System.nanoTime();
            Object unused = call.get();
            nanos[i] = System.nanoTime() - begin;
          }
        }
        Arrays.sort(nanos);
        double[] percentiles = {nanos[times / 2] / 1e3, nanos[times * 99 / 100] / 1e3};
        return Arrays.copyOf(percentiles, figures.size());
      }

      @Override
      public void close() {
        tensors.close();
      }
    };
  }
}
