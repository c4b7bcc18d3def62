// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.randn;

import io.remora.client.LoadOptions;
import io.remora.client.RemoteMachine;
import io.remora.client.StateDicts;
import java.util.LinkedHashMap;
import java.util.Map;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * A language model on a device. It may be used by one thread at a time.
 *
 * @param config its shape
 * @param module the module, with transformers' names for parameters
 * @param dtype of its parameters
 */
public record LanguageModel(LlamaConfig config, LlamaForCausalLM module, ScalarType dtype) {
  // What a base model's checkpoint, which has no output layer, leaves out of its names.
  private static final String BASE = "model.";

  /** Makes the machine load a model. No weight is sent to this program. */
  public static LanguageModel load(
      RemoteMachine machine, LlamaConfig config, String source, LoadOptions options) {
    return of(config, machine.loadStateDicts(source, options).get(""));
  }

  /**
   * A model whose parameters are these tensors; tensors of other names are ignored.
   *
   * @throws io.remora.client.StateDictMismatchException when tensors are missing or do not fit
   */
  public static LanguageModel of(LlamaConfig config, Map<String, Tensor> tensors) {
    LlamaForCausalLM module =
        new LlamaForCausalLM(config, Place.options(new Device("meta"), ScalarType.Float));
    Map<String, Tensor> weights = module.weights();
    Map<String, Tensor> wanted = new LinkedHashMap<>(tensors);
    wanted.keySet().retainAll(weights.keySet());
    StateDicts.link(module, wanted);
    return new LanguageModel(config, module, weights.values().iterator().next().scalar_type());
  }

  /**
   * A model of a base model's checkpoint, such as one for embeddings. The tensors may lack the
   * output layer, and the part {@code model.} of their names. Where the output layer is missing,
   * the embedding table takes its place.
   *
   * @throws io.remora.client.StateDictMismatchException when other tensors are missing or do not
   *     fit
   */
  public static LanguageModel ofBase(LlamaConfig config, Map<String, Tensor> tensors) {
    boolean named = tensors.keySet().stream().anyMatch(name -> name.startsWith(BASE));
    Map<String, Tensor> full = new LinkedHashMap<>();
    tensors.forEach((name, tensor) -> full.put(named ? name : BASE + name, tensor));
    return of(full.containsKey("lm_head.weight") ? config : config.withTiedEmbeddings(), full);
  }

  /**
   * A model with random weights in float32, to be trained from the beginning. The weights are the
   * same on every device. The local CPU's generator is seeded with 0.
   *
   * @param scale standard deviation of the weights
   */
  public static LanguageModel random(LlamaConfig config, Place place, double scale) {
    try (NoGradGuard noGradients = new NoGradGuard()) {
      LlamaForCausalLM module =
          new LlamaForCausalLM(config, Place.options(place.device(), ScalarType.Float));
      manual_seed(0);
      for (Tensor parameter : module.weights().values()) {
        try (PointerScope temporaries = new PointerScope()) {
          Tensor drawn = randn(parameter.shape()).mul(new Scalar(scale));
          parameter.copy_(parameter.dim() == 1 ? drawn.add(new Scalar(1.0)) : drawn);
        }
      }
      return new LanguageModel(config, module, ScalarType.Float);
    }
  }

  /** The parameters by name; tied ones appear once. An adapter's are not among them. */
  public Map<String, Tensor> weights() {
    return module.weights();
  }

  /**
   * Scores of every token of the vocabulary as the next one, {@code [batch, time, vocabulary]}.
   *
   * @param tokens {@code [batch, time]}, int64, on the model's device
   */
  public Tensor scores(Tensor tokens) {
    return module.forward(tokens, positions(tokens), null);
  }

  /**
   * What the last layer says of each token, normalised, before the output layer: {@code [batch,
   * time, hidden size]}.
   *
   * @param tokens {@code [batch, time]}, int64, on the model's device
   */
  public Tensor hidden(Tensor tokens) {
    return module.hidden(tokens, positions(tokens));
  }

  private PositionTable.Positions positions(Tensor tokens) {
    long time = tokens.size(1);
    PositionTable table = new PositionTable(config, time, tokens.device(), dtype);
    return table.at(table.first(time), time);
  }
}
