// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.cross_entropy;

import java.lang.ref.Reference;
import java.util.LinkedHashMap;
import java.util.Map;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.StringTensorDict;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * A language model: predicts the next token. {@link LanguageModel} and {@link Generation} use it.
 */
public final class LlamaForCausalLM extends Module {
  private final LlamaModel model;
  private final Linear head;

  /**
   * A model with uninitialized parameters, which a checkpoint's tensors replace.
   *
   * @param options dtype, and the device: {@code meta} for parameters that take no memory
   */
  public LlamaForCausalLM(LlamaConfig config, TensorOptions options) {
    model = register_module("model", new LlamaModel(config, options));
    head =
        config.tiedEmbeddings()
            ? null
            : register_module(
                "lm_head",
                new Linear(config.hiddenSize(), config.vocabularySize(), false, options));
  }

  /**
   * Scores of every token of the vocabulary as the next one, {@code [batch, time, vocabulary]}.
   *
   * @param tokens {@code [batch, time]}, int64
   * @param cache of the earlier tokens, to which these are added; null if there are none
   */
  Tensor forward(Tensor tokens, PositionTable.Positions positions, KeyValueCache cache) {
    return scores(model.forward(tokens, positions, cache));
  }

  /** Like {@link #forward}, but after the last token only: {@code [batch, vocabulary]}. */
  Tensor last(Tensor tokens, PositionTable.Positions positions, KeyValueCache cache) {
    return scores(model.forward(tokens, positions, cache).select(1, -1));
  }

  /** The last layer's normalised result, {@code [batch, time, hidden size]}. */
  Tensor hidden(Tensor tokens, PositionTable.Positions positions) {
    return model.forward(tokens, positions, null);
  }

  /** The mean cross entropy of predicting each token from those before it, a float32 scalar. */
  Tensor loss(Tensor tokens, PositionTable.Positions positions) {
    long time = tokens.size(1);
    Tensor scores = forward(tokens, positions, null).to(ScalarType.Float);
    return cross_entropy(
        scores.narrow(1, 0, time - 1).flatten(0, 1), tokens.narrow(1, 1, time - 1).flatten());
  }

  /**
   * The parameters by name; tied ones appear once. Each tensor is a separate reference, because
   * those that {@code named_parameters()} returns point into a dictionary that the garbage
   * collector frees.
   */
  public Map<String, Tensor> weights() {
    Map<String, Tensor> weights = new LinkedHashMap<>();
    StringTensorDict parameters = named_parameters();
    try {
      for (long i = 0; i < parameters.size(); i++) {
        weights.put(parameters.get(i).key().getString(), new Tensor(parameters.get(i).value()));
      }
      return weights;
    } finally {
      Reference.reachabilityFence(parameters);
    }
  }

  /** The linear layers by the names of their modules. */
  Map<String, Linear> linearLayers() {
    Map<String, Linear> layers = new LinkedHashMap<>();
    model.addLinearLayers("model.", layers);
    if (head != null) {
      layers.put("lm_head", head);
    }
    return layers;
  }

  private Tensor scores(Tensor hidden) {
    return head == null ? model.unembed(hidden) : head.forward(hidden);
  }
}
