// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import static org.bytedeco.pytorch.global.torch.cross_entropy;

import java.lang.ref.Reference;
import java.util.LinkedHashMap;
import java.util.Map;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.StringTensorDict;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** A language model: what token comes next. */
final class LlamaForCausalLM extends Module {
  private final LlamaModel model;
  private final Linear head;

  /**
   * A model without numbers, to be given a checkpoint's.
   *
   * @param options dtype, and the device: {@code meta} for parameters that take no memory
   */
  LlamaForCausalLM(LlamaConfig config, TensorOptions options) {
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
   * @param cache of the tokens before these, to which they are added; null: these are all
   */
  Tensor forward(Tensor tokens, PositionTable.Positions positions, KeyValueCache cache) {
    return scores(model.forward(tokens, positions, cache));
  }

  /** As {@link #forward}, but after the last token only: {@code [batch, vocabulary]}. */
  Tensor last(Tensor tokens, PositionTable.Positions positions, KeyValueCache cache) {
    return scores(model.forward(tokens, positions, cache).select(1, -1));
  }

  /** The mean of what predicting each token from those before costs, float32, a scalar. */
  Tensor loss(Tensor tokens, PositionTable.Positions positions) {
    long time = tokens.size(1);
    Tensor scores = forward(tokens, positions, null).to(ScalarType.Float);
    return cross_entropy(
        scores.narrow(1, 0, time - 1).flatten(0, 1), tokens.narrow(1, 1, time - 1).flatten());
  }

  /**
   * The parameters by name, tied ones once. Each tensor is a reference of its own: those that
   * {@code named_parameters()} gives out point into a dictionary that the garbage collector frees.
   */
  Map<String, Tensor> weights() {
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

  private Tensor scores(Tensor hidden) {
    return head == null ? model.unembed(hidden) : head.forward(hidden);
  }
}
