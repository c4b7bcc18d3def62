// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.embedding;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.linear;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;

/** Embedding, decoder layers and a final normalisation. */
final class LlamaModel extends Module {
  private final Embedding embedding;
  private final Module layerList = new Module("layers");
  private final List<DecoderLayer> layers = new ArrayList<>();
  private final RmsNorm norm;

  LlamaModel(LlamaConfig config, TensorOptions options) {
    embedding = register_module("embed_tokens", new Embedding(config, options));
    register_module("layers", layerList);
    for (int i = 0; i < config.layers(); i++) {
      layers.add(layerList.register_module(Integer.toString(i), new DecoderLayer(config, options)));
    }
    norm = register_module("norm", new RmsNorm(config.hiddenSize(), config.normEpsilon(), options));
  }

  /**
   * Tokens {@code [batch, time]}, int64, to {@code [batch, time, hidden size]}.
   *
   * @param cache of the earlier tokens, to which these are added; null if there are none
   */
  Tensor forward(Tensor tokens, PositionTable.Positions positions, KeyValueCache cache) {
    Tensor hidden = embedding.forward(tokens);
    for (int i = 0; i < layers.size(); i++) {
      hidden = layers.get(i).forward(hidden, positions, cache == null ? null : cache.layer(i));
    }
    return norm.forward(hidden);
  }

  /** Adds the linear layers by the names of their modules. */
  void addLinearLayers(String prefix, Map<String, Linear> target) {
    for (int i = 0; i < layers.size(); i++) {
      layers.get(i).addLinearLayers(prefix + "layers." + i + ".", target);
    }
  }

  /** The embedding table as the output layer: {@code [..., hidden size]} to the vocabulary. */
  Tensor unembed(Tensor hidden) {
    return linear(hidden, embedding.weight);
  }

  /** A row of numbers for each token of the vocabulary. */
  private static final class Embedding extends Module {
    private final Tensor weight;

    Embedding(LlamaConfig config, TensorOptions options) {
      long[] shape = {config.vocabularySize(), config.hiddenSize()};
      weight = empty(shape, options, null);
      register_parameter("weight", weight);
    }

    Tensor forward(Tensor tokens) {
      return embedding(weight, tokens);
    }
  }
}
