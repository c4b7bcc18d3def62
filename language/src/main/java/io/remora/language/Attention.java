// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.scaled_dot_product_attention;

import java.util.Map;
import org.bytedeco.pytorch.DoubleOptional;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptional;
import org.bytedeco.pytorch.TensorOptions;

/** Self-attention in which several query heads share the keys and values of one head. */
final class Attention extends Module {
  private final int heads;
  private final int keyValueHeads;
  private final int headSize;
  private final Linear query;
  private final Linear key;
  private final Linear value;
  private final Linear output;

  Attention(LlamaConfig config, TensorOptions options) {
    heads = config.heads();
    keyValueHeads = config.keyValueHeads();
    headSize = config.headSize();
    int hidden = config.hiddenSize();
    int inner = heads * headSize;
    int shared = keyValueHeads * headSize;
    boolean bias = config.queryKeyValueBias();
    query = register_module("q_proj", new Linear(hidden, inner, bias, options));
    key = register_module("k_proj", new Linear(hidden, shared, bias, options));
    value = register_module("v_proj", new Linear(hidden, shared, bias, options));
    output = register_module("o_proj", new Linear(inner, hidden, config.outputBias(), options));
  }

  /**
   * {@code [batch, time, hidden size]} to the same shape.
   *
   * @param cache of the earlier tokens, to which these are added; null if there are none
   */
  Tensor forward(Tensor hidden, PositionTable.Positions positions, KeyValueCache.Layer cache) {
    long batch = hidden.size(0);
    long time = hidden.size(1);
    Tensor queries = positions.rotation().apply(split(query.forward(hidden), heads));
    Tensor keys = positions.rotation().apply(split(key.forward(hidden), keyValueHeads));
    Tensor values = split(value.forward(hidden), keyValueHeads);
    if (cache != null) {
      cache.write(positions.indices(), keys, values);
      keys = cache.keys().narrow(2, 0, positions.span());
      values = cache.values().narrow(2, 0, positions.span());
    }
    // The query heads of a group share their keys. As rows of one head they need no copies of the
    // keys, and the CPU's fused kernel accepts them, which it does not with enable_gqa.
    long rows = heads / keyValueHeads * time;
    Tensor attended =
        scaled_dot_product_attention(
            queries.reshape(batch, keyValueHeads, rows, headSize),
            keys,
            values,
            new TensorOptional(positions.mask()),
            0.0,
            false,
            new DoubleOptional(),
            false);
    Tensor byToken = attended.reshape(batch, heads, time, headSize).transpose(1, 2);
    return output.forward(byToken.reshape(batch, time, (long) heads * headSize));
  }

  void addLinearLayers(String prefix, Map<String, Linear> target) {
    target.put(prefix + "q_proj", query);
    target.put(prefix + "k_proj", key);
    target.put(prefix + "v_proj", value);
    target.put(prefix + "o_proj", output);
  }

  /** {@code [batch, time, heads * head size]} to {@code [batch, heads, time, head size]}. */
  private Tensor split(Tensor joined, long count) {
    return joined.view(joined.size(0), joined.size(1), count, headSize).transpose(1, 2);
  }
}
