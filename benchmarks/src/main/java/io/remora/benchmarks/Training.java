// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.cross_entropy;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.max_pool2d;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.relu;

import java.util.List;
import java.util.function.Function;
import java.util.function.Supplier;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Adam;
import org.bytedeco.pytorch.AdamOptions;
import org.bytedeco.pytorch.Conv2dImpl;
import org.bytedeco.pytorch.Conv2dOptions;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Training steps of a network with Adam; no value is read. */
@SuppressWarnings("try") // the scopes are opened only to be closed
final class Training implements Workload {

  /** A network on one side, and its loss on the next batch. */
  private record Net(Module module, Supplier<Tensor> loss) {}

  private final int steps;
  private final Figure figure;
  private final Function<Side, Net> maker;

  private Training(int steps, String key, String title, Function<Side, Net> maker) {
    this.steps = steps;
    this.figure = new Figure(key, title, "steps/s", true, ">= 1.0");
    this.maker = maker;
  }

  /** A 784 - 256 - 10 network with batches of 128, the same images each time. */
  static Training mlp(int steps) {
    return new Training(
        steps,
        "mlpTraining",
        "MLP training 784-256-10, batch 128",
        side -> {
          Tensor images = randn(128, 784).to(side.device(), ScalarType.Float);
          Tensor labels = randint(10, new long[] {128}).to(side.device(), ScalarType.Long);
          Mlp net = on(side, new Mlp());
          return new Net(net, () -> cross_entropy(net.forward(images), labels));
        });
  }

  /** A GPT with batches of 8 x 64 words, the same words each time. */
  static Training gpt(int steps) {
    return new Training(
        steps,
        "gptTraining",
        "GPT training 2 x 128, batch 8 x 64",
        side -> {
          Tensor words = randint(Gpt.WORDS, new long[] {8, 65}).to(side.device(), ScalarType.Long);
          Gpt net = on(side, new Gpt());
          return new Net(
              net,
              () ->
                  cross_entropy(
                      net.forward(words.narrow(1, 0, 64)).reshape(-1, Gpt.WORDS),
                      words.narrow(1, 1, 64).reshape(-1)));
        });
  }

  /** A small convolutional network; each step uploads 32 new images of 3 x 32 x 32. */
  static Training convolutions(int steps) {
    return new Training(
        steps,
        "convolutionTraining",
        "convolution step with upload",
        side -> {
          Convolutions net = on(side, new Convolutions());
          return new Net(
              net,
              () -> {
                Tensor images = randn(32, 3, 32, 32).to(side.device(), ScalarType.Float);
                Tensor labels = randint(10, new long[] {32}).to(side.device(), ScalarType.Long);
                return cross_entropy(net.forward(images), labels);
              });
        });
  }

  private static <T extends Module> T on(Side side, T net) {
    net.to(side.device(), false);
    return net;
  }

  @Override
  public List<Figure> figures() {
    return List.of(figure);
  }

  @Override
  public Prepared prepare(Side side) {
    manual_seed(1);
    PointerScope kept = new PointerScope();
    Net net = maker.apply(side);
    Adam optimizer = new Adam(net.module().parameters(), new AdamOptions(1e-3));
    side.synchronize().run();
    return new Prepared() {
      @Override
      public double[] run() {
        long begin = System.nanoTime();
        for (int i = 0; i < steps; i++) {
          try (PointerScope temporaries = new PointerScope()) {
            optimizer.zero_grad();
            net.loss().get().backward();
            optimizer.step();
          }
        }
        side.synchronize().run();
        return new double[] {steps * 1e9 / (System.nanoTime() - begin)};
      }

      @Override
      public void close() {
        kept.close();
      }
    };
  }

  private static final class Mlp extends Module {
    private final LinearImpl hidden = register_module("hidden", new LinearImpl(784, 256));
    private final LinearImpl last = register_module("last", new LinearImpl(256, 10));

    Tensor forward(Tensor images) {
      return last.forward(relu(hidden.forward(images)));
    }
  }

  /** Two convolutions for images of 3 x 32 x 32 in ten classes. */
  static final class Convolutions extends Module {
    private final Conv2dImpl first = register_module("first", convolution(3, 16));
    private final Conv2dImpl second = register_module("second", convolution(16, 32));
    private final LinearImpl last = register_module("last", new LinearImpl(32, 10));

    Tensor forward(Tensor images) {
      Tensor halved = max_pool2d(relu(first.forward(images)), 2, 2);
      return last.forward(relu(second.forward(halved)).mean(2, 3));
    }

    private static Conv2dImpl convolution(long inputs, long outputs) {
      Conv2dOptions options =
          new Conv2dOptions(inputs, outputs, new LongPointer(new long[] {3, 3}));
      options.padding().put(new LongPointer(new long[] {1, 1}));
      return new Conv2dImpl(options);
    }
  }
}
