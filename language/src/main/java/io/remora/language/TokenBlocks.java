// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.randperm;

import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.GeneratorOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * A text as blocks of tokens, all of it on the device. Each epoch takes the blocks in another
 * order, which the device's generator draws.
 */
public final class TokenBlocks {
  private final Place place;
  private final int batchSize;
  private final Tensor blocks;
  private final Tensor order;

  /**
   * The text's blocks; leftover tokens at the end are dropped.
   *
   * @param length tokens of a block
   * @param batchSize blocks of a batch
   * @throws IllegalArgumentException when the text does not fill a batch
   */
  public TokenBlocks(long[] tokens, int length, int batchSize, Place place) {
    long count = tokens.length / length;
    if (count < batchSize) {
      throw new IllegalArgumentException(
          "The text has %d tokens, which is less than a batch of %d blocks of %d"
              .formatted(tokens.length, batchSize, length));
    }
    this.place = place;
    this.batchSize = batchSize;
    blocks =
        Tensor.create(tokens)
            .narrow(0, 0, count * length)
            .view(count, length)
            .to(place.device(), ScalarType.Long);
    order = PositionTable.range(count, place.device());
  }

  /** Tokens of a block. */
  int length() {
    return Math.toIntExact(blocks.size(1));
  }

  /** The order of the blocks in this epoch, {@code [blocks]}. A resumed training needs it. */
  public Tensor order() {
    return order;
  }

  /** Batches of an epoch; leftover blocks wait for the next one's order. */
  public int batchesPerEpoch() {
    return Math.toIntExact(blocks.size(0) / batchSize);
  }

  /**
   * Batch number {@code index} of the training, {@code [batch size, length]}. Ask for them in
   * order, from 0.
   */
  public Tensor batch(long index) {
    long inEpoch = index % batchesPerEpoch();
    if (inEpoch == 0) {
      try (PointerScope temporaries = new PointerScope()) {
        order.copy_(
            randperm(
                order.size(0),
                new GeneratorOptional(place.generator()),
                Place.options(place.device(), ScalarType.Long)));
      }
    }
    return blocks.index_select(0, order.narrow(0, inEpoch * batchSize, batchSize));
  }
}
