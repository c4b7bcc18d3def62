// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.zeros;

import java.util.List;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Views of one tensor: metadata alone, which never needs the machine. */
final class PureViews implements Workload {

  private final int operations;

  PureViews(int operations) {
    this.operations = operations;
  }

  @Override
  public List<Figure> figures() {
    return List.of(new Figure("pureViews", "pure views (transpose)", "ops/s", true, ">= 0.95"));
  }

  @Override
  public Prepared prepare(Side side) {
    Tensor base = zeros(8, 8).to(side.device(), ScalarType.Float);
    side.synchronize().run();
    return new Prepared() {
      @Override
      public double[] run() {
        long begin = System.nanoTime();
        for (int i = 0; i < operations; i++) {
          base.transpose(0, 1).close();
        }
        side.synchronize().run();
        return new double[] {operations * 1e9 / (System.nanoTime() - begin)};
      }

      @Override
      public void close() {
        base.close();
      }
    };
  }
}
