// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import io.remora.client.LoadOptions;
import io.remora.client.RemoteMachine;
import io.remora.client.StateDicts;
import java.util.LinkedHashMap;
import java.util.Map;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * A model on a machine.
 *
 * @param config its shape
 * @param module the module, whose parameters are the tensors that the machine has loaded
 * @param dtype of its parameters
 */
record LoadedModel(LlamaConfig config, LlamaForCausalLM module, ScalarType dtype) {

  /** Makes the machine load a model. No weight is sent to this program. */
  static LoadedModel load(
      RemoteMachine machine, LlamaConfig config, String source, LoadOptions options) {
    return of(config, machine.loadStateDicts(source, options).get(""));
  }

  /** A model whose parameters are these tensors; tensors of other names are ignored. */
  static LoadedModel of(LlamaConfig config, Map<String, Tensor> tensors) {
    LlamaForCausalLM module =
        new LlamaForCausalLM(config, Place.options(new Device("meta"), ScalarType.Float));
    Map<String, Tensor> weights = module.weights();
    Map<String, Tensor> wanted = new LinkedHashMap<>(tensors);
    wanted.keySet().retainAll(weights.keySet());
    StateDicts.link(module, wanted);
    return new LoadedModel(config, module, weights.values().iterator().next().scalar_type());
  }
}
