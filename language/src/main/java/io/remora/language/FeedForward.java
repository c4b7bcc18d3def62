// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.silu;

import java.util.Map;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;

/** The feed-forward network of a layer: SwiGLU. */
final class FeedForward extends Module {
  private final Linear gate;
  private final Linear up;
  private final Linear down;

  FeedForward(LlamaConfig config, TensorOptions options) {
    int hidden = config.hiddenSize();
    int inner = config.intermediateSize();
    boolean bias = config.feedForwardBias();
    gate = register_module("gate_proj", new Linear(hidden, inner, bias, options));
    up = register_module("up_proj", new Linear(hidden, inner, bias, options));
    down = register_module("down_proj", new Linear(inner, hidden, bias, options));
  }

  void addLinearLayers(String prefix, Map<String, Linear> target) {
    target.put(prefix + "gate_proj", gate);
    target.put(prefix + "up_proj", up);
    target.put(prefix + "down_proj", down);
  }

  /** {@code [batch, time, hidden size]} to the same shape. */
  Tensor forward(Tensor hidden) {
    return down.forward(silu(gate.forward(hidden)).mul(up.forward(hidden)));
  }
}
