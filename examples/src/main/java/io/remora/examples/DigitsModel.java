// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import static org.bytedeco.pytorch.global.torch.max_pool2d;
import static org.bytedeco.pytorch.global.torch.relu;

import java.util.Locale;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.pytorch.Conv2dImpl;
import org.bytedeco.pytorch.Conv2dOptions;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;

/**
 * A classifier of 8x8 digits: an ordinary libtorch module that knows nothing of Remora. The layers
 * are fields, so that Java keeps them alive as long as the model.
 */
abstract class DigitsModel extends Module {

  /** Which network to train. */
  enum Kind {
    /** Three linear layers. */
    MLP,
    /** Two convolutions and a linear layer. */
    CONV;

    /** Makes the network on the CPU, its parameters drawn from libtorch's default generator. */
    DigitsModel create() {
      return switch (this) {
        case MLP -> new Mlp();
        case CONV -> new Conv();
      };
    }

    @Override
    public String toString() {
      return name().toLowerCase(Locale.ROOT);
    }
  }

  /** Scores of the ten digits, {@code [n, 10]}, for images {@code [n, 64]}. */
  abstract Tensor forward(Tensor images);

  /** 64 - 128 - 64 - 10 with ReLU between. */
  static final class Mlp extends DigitsModel {
    private final LinearImpl first = register_module("first", new LinearImpl(64, 128));
    private final LinearImpl second = register_module("second", new LinearImpl(128, 64));
    private final LinearImpl last = register_module("last", new LinearImpl(64, 10));

    @Override
    Tensor forward(Tensor images) {
      Tensor hidden = relu(first.forward(images));
      return last.forward(relu(second.forward(hidden)));
    }
  }

  /** Twice: convolution 3x3, ReLU, max-pooling 2x2; then a linear layer. */
  static final class Conv extends DigitsModel {
    private final Conv2dImpl first = register_module("first", convolution(1, 16));
    private final Conv2dImpl second = register_module("second", convolution(16, 32));
    private final LinearImpl last = register_module("last", new LinearImpl(32 * 2 * 2, 10));

    @Override
    Tensor forward(Tensor images) {
      Tensor pixels = images.reshape(-1, 1, 8, 8);
      Tensor halved = max_pool2d(relu(first.forward(pixels)), 2, 2);
      Tensor quartered = max_pool2d(relu(second.forward(halved)), 2, 2);
      return last.forward(quartered.flatten(1, -1));
    }

    private static Conv2dImpl convolution(long inputs, long outputs) {
      Conv2dOptions options =
          new Conv2dOptions(inputs, outputs, new LongPointer(new long[] {3, 3}));
      options.padding().put(new LongPointer(new long[] {1, 1}));
      return new Conv2dImpl(options);
    }
  }
}
