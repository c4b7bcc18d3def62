// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.cross_entropy;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.relu;

import java.util.List;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Adam;
import org.bytedeco.pytorch.AdamOptions;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Training steps of a 784 - 256 - 10 network with batches of 128 and Adam; no value is read. */
@SuppressWarnings("try") // the scopes are opened for what closing them does
final class MlpTraining implements Workload {

  private static final int BATCH = 128;

  private final int steps;

  MlpTraining(int steps) {
    this.steps = steps;
  }

  @Override
  public List<Figure> figures() {
    return List.of(
        new Figure(
            "mlpTraining", "MLP training 784-256-10, batch 128", "steps/s", true, ">= 0.70"));
  }

  @Override
  public Prepared prepare(Side side) {
    manual_seed(1);
    Tensor images = randn(BATCH, 784).to(side.device(), ScalarType.Float);
    Tensor labels = randint(10, new long[] {BATCH}).to(side.device(), ScalarType.Long);
    Net net = new Net();
    net.to(side.device(), false);
    Adam optimizer = new Adam(net.parameters(), new AdamOptions(1e-3));
    side.synchronize().run();
    return new Prepared() {
      @Override
      public double[] run() {
        long begin = System.nanoTime();
        for (int i = 0; i < steps; i++) {
          try (PointerScope temporaries = new PointerScope()) {
            optimizer.zero_grad();
            cross_entropy(net.forward(images), labels).backward();
            optimizer.step();
          }
        }
        side.synchronize().run();
        return new double[] {steps * 1e9 / (System.nanoTime() - begin)};
      }

      @Override
      public void close() {
        optimizer.close();
        net.close();
        images.close();
        labels.close();
      }
    };
  }

  private static final class Net extends Module {
    private final LinearImpl hidden = register_module("hidden", new LinearImpl(784, 256));
    private final LinearImpl last = register_module("last", new LinearImpl(256, 10));

    Tensor forward(Tensor images) {
      return last.forward(relu(hidden.forward(images)));
    }
  }
}
