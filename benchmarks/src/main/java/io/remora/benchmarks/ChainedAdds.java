// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.zeros;

import java.util.List;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * Repeats {@code c = c + y}, and releases each result as soon as the next exists. Ends with a
 * synchronize, so that everything counted has been computed.
 */
final class ChainedAdds implements Workload {

  private final int size;
  private final int operations;
  private final String target;

  ChainedAdds(int size, int operations, String target) {
    this.size = size;
    this.operations = operations;
    this.target = target;
  }

  @Override
  public List<Figure> figures() {
    String name = size + "x" + size;
    return List.of(new Figure("chainedAdds" + name, "chained adds " + name, "ops/s", true, target));
  }

  @Override
  public Prepared prepare(Side side) {
    Tensor start = zeros(size, size).to(side.device(), ScalarType.Float);
    Tensor step = ones(size, size).to(side.device(), ScalarType.Float);
    side.synchronize().run();
    return new Prepared() {
      @Override
      public double[] run() {
        long begin = System.nanoTime();
        Tensor sum = start.add(step);
        for (int i = 1; i < operations; i++) {
          Tensor next = sum.add(step);
          sum.close();
          sum = next;
        }
        side.synchronize().run();
        long elapsed = System.nanoTime() - begin;
        sum.close();
        return new double[] {operations * 1e9 / elapsed};
      }

      @Override
      public void close() {
        start.close();
        step.close();
      }
    };
  }
}
