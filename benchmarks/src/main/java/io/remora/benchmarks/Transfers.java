// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.ones;

import java.util.List;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * Uploads and downloads one float tensor, new memory each time. Locally there is nothing to move,
 * so a copy ({@code clone}) is measured for both.
 */
final class Transfers implements Workload {

  private final int mebibytes;

  Transfers(int mebibytes) {
    this.mebibytes = mebibytes;
  }

  @Override
  public List<Figure> figures() {
    return List.of(
        figure("upload", "upload " + mebibytes + " MiB"),
        figure("download", "download " + mebibytes + " MiB"));
  }

  private static Figure figure(String key, String title) {
    return new Figure(key, title, "MB/s", true, ">= 0.8 of socket", Yardstick.SOCKET);
  }

  @Override
  public Prepared prepare(Side side) {
    long bytes = mebibytes * 1024L * 1024L;
    Tensor source = ones(bytes / Float.BYTES);
    boolean local = side.device().is_cpu();
    return new Prepared() {
      @Override
      public double[] run() {
        long begin = System.nanoTime();
        Tensor there = local ? source.clone() : source.to(side.device(), ScalarType.Float);
        side.synchronize().run();
        long uploaded = System.nanoTime();
        Tensor back = local ? there.clone() : there.cpu();
        long downloaded = System.nanoTime();
        boolean intact = back.equal(source);
        there.close();
        back.close();
        if (!intact) {
          throw new IllegalStateException("The downloaded tensor differs from the uploaded one");
        }
        return new double[] {
          bytes * 1e3 / (uploaded - begin), bytes * 1e3 / (downloaded - uploaded)
        };
      }

      @Override
      public void close() {
        source.close();
      }
    };
  }
}
