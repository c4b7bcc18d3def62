// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.randn;

import java.util.List;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Uploads of 4 KiB, each to new memory; ends with a wait until the last has arrived. */
final class SmallUploads implements Workload {

  private static final long FLOATS = 1024;

  private final int uploads;

  SmallUploads(int uploads) {
    this.uploads = uploads;
  }

  @Override
  public List<Figure> figures() {
    return List.of(new Figure("uploadSmall", "uploads of 4 KiB", "per s", true, ">= 50,000"));
  }

  @Override
  public Prepared prepare(Side side) {
    Tensor source = randn(FLOATS);
    boolean local = side.device().is_cpu();
    return new Prepared() {
      @Override
      public double[] run() {
        long begin = System.nanoTime();
        for (int i = 0; i < uploads; i++) {
          (local ? source.clone() : source.to(side.device(), ScalarType.Float)).close();
        }
        side.synchronize().run();
        return new double[] {uploads * 1e9 / (System.nanoTime() - begin)};
      }

      @Override
      public void close() {
        source.close();
      }
    };
  }
}
