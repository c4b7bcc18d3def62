// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.cat;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.zeros;

import java.util.List;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AutoGradMode;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Greedy generation from the last 32 tokens. The program reads each token before the next. */
@SuppressWarnings("try") // the scopes are opened only to be closed
final class Generation implements Workload {

  private static final long WINDOW = 32;

  private final int tokens;

  Generation(int tokens) {
    this.tokens = tokens;
  }

  @Override
  public List<Figure> figures() {
    return List.of(
        new Figure("generation", "greedy generation, per token", "us", false, "local + 1 item"));
  }

  @Override
  public Prepared prepare(Side side) {
    manual_seed(1);
    PointerScope kept = new PointerScope();
    Gpt net = new Gpt();
    net.to(side.device(), false);
    Tensor prompt = zeros(1, WINDOW).to(side.device(), ScalarType.Long);
    side.synchronize().run();
    return new Prepared() {
      @Override
      public double[] run() {
        try (PointerScope run = new PointerScope();
            AutoGradMode inference = new AutoGradMode(false)) {
          Tensor window = prompt;
          long begin = System.nanoTime();
          for (int i = 0; i < tokens; i++) {
            try (PointerScope temporaries = new PointerScope()) {
              Tensor token =
                  net.forward(window).select(1, WINDOW - 1).argmax(new LongOptional(-1), true);
              long value = token.item_long();
              if (value < 0 || value >= Gpt.WORDS) {
                throw new IllegalStateException("Not a token: " + value);
              }
              TensorVector parts = new TensorVector(window.narrow(1, 1, WINDOW - 1), token);
              window = cat(parts, 1);
              run.attach(window);
              temporaries.detach(window);
            }
          }
          return new double[] {(System.nanoTime() - begin) / 1e3 / tokens};
        }
      }

      @Override
      public void close() {
        kept.close();
      }
    };
  }
}
