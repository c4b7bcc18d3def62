// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.randn;

import java.util.Arrays;
import java.util.List;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** {@code (x + y).sum().item()}: the time from asking to having the number. */
@SuppressWarnings("try") // the scope is opened for what closing it does
final class RoundTrip implements Workload {

  private final int reads;

  RoundTrip(int reads) {
    this.reads = reads;
  }

  @Override
  public List<Figure> figures() {
    return List.of(
        new Figure("roundTripP50", "(x+y).sum().item() p50", "us", false, "<= 400 us"),
        new Figure("roundTripP99", "(x+y).sum().item() p99", "us", false, ""));
  }

  @Override
  public Prepared prepare(Side side) {
    Tensor x = randn(8, 8).to(side.device(), ScalarType.Float);
    Tensor y = randn(8, 8).to(side.device(), ScalarType.Float);
    side.synchronize().run();
    return new Prepared() {
      @Override
      public double[] run() {
        long[] nanos = new long[reads];
        float total = 0;
        for (int i = 0; i < reads; i++) {
          try (PointerScope temporaries = new PointerScope()) {
            long begin = System.nanoTime();
            total += x.add(y).sum().item_float();
            nanos[i] = System.nanoTime() - begin;
          }
        }
        if (Float.isNaN(total)) {
          throw new IllegalStateException("The sums are not numbers");
        }
        Arrays.sort(nanos);
        return new double[] {percentile(nanos, 0.50) / 1e3, percentile(nanos, 0.99) / 1e3};
      }

      @Override
      public void close() {
        x.close();
        y.close();
      }
    };
  }

  private static double percentile(long[] sorted, double share) {
    return sorted[(int) Math.min(sorted.length - 1, Math.round(share * (sorted.length - 1)))];
  }
}
