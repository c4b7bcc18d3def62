// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import java.util.Map;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;

/** Attention and the feed-forward network. Each normalises its input and adds its result to it. */
final class DecoderLayer extends Module {
  private final RmsNorm attentionNorm;
  private final Attention attention;
  private final RmsNorm feedForwardNorm;
  private final FeedForward feedForward;

  DecoderLayer(LlamaConfig config, TensorOptions options) {
    attention = register_module("self_attn", new Attention(config, options));
    feedForward = register_module("mlp", new FeedForward(config, options));
    attentionNorm = register_module("input_layernorm", norm(config, options));
    feedForwardNorm = register_module("post_attention_layernorm", norm(config, options));
  }

  /** {@code [batch, time, hidden size]} to the same shape; {@code cache} may be null. */
  Tensor forward(Tensor hidden, PositionTable.Positions positions, KeyValueCache.Layer cache) {
    Tensor attended =
        attention.forward(attentionNorm.forward(hidden), positions, cache).add(hidden);
    return feedForward.forward(feedForwardNorm.forward(attended)).add(attended);
  }

  void addLinearLayers(String prefix, Map<String, Linear> target) {
    attention.addLinearLayers(prefix + "self_attn.", target);
    feedForward.addLinearLayers(prefix + "mlp.", target);
  }

  private static RmsNorm norm(LlamaConfig config, TensorOptions options) {
    return new RmsNorm(config.hiddenSize(), config.normEpsilon(), options);
  }
}
