// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.zeros;

import java.util.ArrayList;
import java.util.List;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;

/**
 * Keys and values of the tokens so far, in tensors that are made once for the longest text. New
 * ones are written by index, and attention reads a length rounded up to a multiple of {@value
 * #SPAN}: shapes then stay the same for many steps, and a remote device records the same operations
 * again without asking for the shapes of their results.
 */
final class KeyValueCache {
  private static final long SPAN = 128;

  private final long capacity;
  private final List<Layer> layers = new ArrayList<>();

  /** One layer's part: each {@code [batch, key and value heads, capacity, head size]}. */
  record Layer(Tensor keys, Tensor values) {

    /** Writes {@code [batch, key and value heads, time, head size]} to these positions. */
    void write(Tensor positions, Tensor newKeys, Tensor newValues) {
      keys.index_copy_(2, positions, newKeys);
      values.index_copy_(2, positions, newValues);
    }
  }

  /**
   * An empty cache. It holds zeros, because even what attention ignores must be a number.
   *
   * @param length number of tokens that must fit
   * @param options the model's device and dtype
   */
  KeyValueCache(LlamaConfig config, long batch, long length, TensorOptions options) {
    capacity = span(length);
    long[] shape = {batch, config.keyValueHeads(), capacity, config.headSize()};
    for (int layer = 0; layer < config.layers(); layer++) {
      layers.add(new Layer(zeros(shape, options), zeros(shape, options)));
    }
  }

  /** The longest span. */
  long capacity() {
    return capacity;
  }

  /** The length that attention reads for a text of {@code length} tokens. */
  static long span(long length) {
    return (length + SPAN - 1) / SPAN * SPAN;
  }

  Layer layer(int index) {
    return layers.get(index);
  }
}
