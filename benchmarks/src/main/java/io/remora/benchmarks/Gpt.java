// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import static org.bytedeco.pytorch.global.torch.cat;
import static org.bytedeco.pytorch.global.torch.gelu;
import static org.bytedeco.pytorch.global.torch.scaled_dot_product_attention;

import java.util.ArrayList;
import java.util.List;
import org.bytedeco.pytorch.DoubleOptional;
import org.bytedeco.pytorch.EmbeddingImpl;
import org.bytedeco.pytorch.LayerNormImpl;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.LongVector;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptional;
import org.bytedeco.pytorch.TensorVector;

/** A GPT of two blocks, 128 wide, with four heads and 512 words. */
final class Gpt extends Module {

  static final long WORDS = 512;
  private static final long WIDTH = 128;
  private static final long HEADS = 4;

  private final EmbeddingImpl words = register_module("words", new EmbeddingImpl(WORDS, WIDTH));
  private final List<Block> blocks = new ArrayList<>();
  private final LayerNormImpl norm = register_module("norm", newNorm());
  private final LinearImpl head = register_module("head", new LinearImpl(WIDTH, WORDS));

  Gpt() {
    for (int i = 0; i < 2; i++) {
      blocks.add(register_module("block" + i, new Block()));
    }
  }

  /** {@code [batch, length]} to {@code [batch, length, words]}. */
  Tensor forward(Tensor tokens) {
    Tensor hidden = words.forward(tokens);
    for (Block block : blocks) {
      hidden = block.forward(hidden);
    }
    return head.forward(norm.forward(hidden));
  }

  /** The keys and values of one block for the words so far; empty at first. */
  static final class Cache {
    private Tensor keys;
    private Tensor values;

    private void add(Tensor moreKeys, Tensor moreValues) {
      keys = keys == null ? moreKeys : cat(new TensorVector(keys, moreKeys), 2);
      values = values == null ? moreValues : cat(new TensorVector(values, moreValues), 2);
    }
  }

  /** Empty caches, for {@link #next}. */
  List<Cache> newCaches() {
    return blocks.stream().map(block -> new Cache()).toList();
  }

  /** {@code [batch, 1]}, the words after those in the caches, to {@code [batch, 1, words]}. */
  Tensor next(Tensor token, List<Cache> caches) {
    Tensor hidden = words.forward(token);
    for (int i = 0; i < blocks.size(); i++) {
      hidden = blocks.get(i).forward(hidden, caches.get(i));
    }
    return head.forward(norm.forward(hidden));
  }

  private static LayerNormImpl newNorm() {
    return new LayerNormImpl(new LongVector(new long[] {WIDTH}));
  }

  private static final class Block extends Module {
    private final LayerNormImpl first = register_module("first", newNorm());
    private final LayerNormImpl second = register_module("second", newNorm());
    private final LinearImpl qkv = register_module("qkv", new LinearImpl(WIDTH, 3 * WIDTH));
    private final LinearImpl out = register_module("out", new LinearImpl(WIDTH, WIDTH));
    private final LinearImpl wide = register_module("wide", new LinearImpl(WIDTH, 4 * WIDTH));
    private final LinearImpl narrow = register_module("narrow", new LinearImpl(4 * WIDTH, WIDTH));

    Tensor forward(Tensor x) {
      return forward(x, null);
    }

    Tensor forward(Tensor x, Cache cache) {
      TensorVector parts = qkv.forward(first.forward(x)).split(WIDTH, 2);
      Tensor keys = heads(parts.get(1));
      Tensor values = heads(parts.get(2));
      if (cache != null) {
        cache.add(keys, values);
        keys = cache.keys;
        values = cache.values;
      }
      Tensor attended =
          scaled_dot_product_attention(
              heads(parts.get(0)),
              keys,
              values,
              new TensorOptional(),
              0.0,
              cache == null,
              new DoubleOptional(),
              false);
      Tensor joined = attended.transpose(1, 2).reshape(x.size(0), x.size(1), WIDTH);
      Tensor y = x.add(out.forward(joined));
      return y.add(narrow.forward(gelu(wide.forward(second.forward(y)))));
    }

    private static Tensor heads(Tensor joined) {
      return joined.view(joined.size(0), joined.size(1), HEADS, WIDTH / HEADS).transpose(1, 2);
    }
  }
}
