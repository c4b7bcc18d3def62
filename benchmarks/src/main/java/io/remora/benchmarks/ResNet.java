// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.relu;

import java.util.ArrayList;
import java.util.List;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.pytorch.BatchNorm2dImpl;
import org.bytedeco.pytorch.BatchNormOptions;
import org.bytedeco.pytorch.Conv2dImpl;
import org.bytedeco.pytorch.Conv2dOptions;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;

/** The 18 layers of a ResNet, a sixteenth as wide, for images of 3 x 32 x 32 in ten classes. */
final class ResNet extends Module {

  private static final long[] WIDTHS = {4, 4, 4, 8, 8, 16, 16, 32, 32};

  private final Conv2dImpl stem = register_module("stem", convolution(3, WIDTHS[0], 3, 1));
  private final BatchNorm2dImpl norm = register_module("norm", norm(WIDTHS[0]));
  private final List<Residual> blocks = new ArrayList<>();
  private final LinearImpl last = register_module("last", new LinearImpl(32, 10));

  ResNet() {
    for (int i = 1; i < WIDTHS.length; i++) {
      blocks.add(register_module("block" + i, new Residual(WIDTHS[i - 1], WIDTHS[i])));
    }
  }

  Tensor forward(Tensor images) {
    Tensor hidden = relu(norm.forward(stem.forward(images)));
    for (Residual block : blocks) {
      hidden = block.forward(hidden);
    }
    return last.forward(hidden.mean(2, 3));
  }

  private static BatchNorm2dImpl norm(long channels) {
    return new BatchNorm2dImpl(new BatchNormOptions(channels));
  }

  private static Conv2dImpl convolution(long inputs, long outputs, long kernel, long stride) {
    Conv2dOptions options =
        new Conv2dOptions(inputs, outputs, new LongPointer(new long[] {kernel, kernel}));
    options.stride().put(new long[] {stride, stride});
    options.padding().put(new LongPointer(new long[] {kernel / 2, kernel / 2}));
    options.bias().put(false);
    return new Conv2dImpl(options);
  }

  /** Two convolutions beside a shortcut. */
  private static final class Residual extends Module {
    private final Conv2dImpl first;
    private final BatchNorm2dImpl firstNorm;
    private final Conv2dImpl second;
    private final BatchNorm2dImpl secondNorm;
    private final Conv2dImpl shortcut;

    Residual(long before, long after) {
      long stride = before == after ? 1 : 2;
      first = register_module("first", convolution(before, after, 3, stride));
      firstNorm = register_module("firstNorm", norm(after));
      second = register_module("second", convolution(after, after, 3, 1));
      secondNorm = register_module("secondNorm", norm(after));
      shortcut =
          before == after
              ? null
              : register_module("shortcut", convolution(before, after, 1, stride));
    }

    Tensor forward(Tensor x) {
      Tensor body = relu(firstNorm.forward(first.forward(x)));
      Tensor beside = shortcut == null ? x : shortcut.forward(x);
      return relu(secondNorm.forward(second.forward(body)).add(beside));
    }
  }
}
