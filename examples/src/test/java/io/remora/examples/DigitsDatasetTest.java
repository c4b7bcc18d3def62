// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Random;
import java.util.stream.IntStream;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("fast")
final class DigitsDatasetTest {

  @Test
  void holdsAllImagesWithValuesFromZeroToOne() {
    DigitsDataset data = DigitsDataset.load(5);

    assertThat(data.trainImages().shape()).containsExactly(1437, 64);
    assertThat(data.testImages().shape()).containsExactly(360, 64);
    assertThat(data.trainImages().min().item_float()).isEqualTo(0f);
    assertThat(data.trainImages().max().item_float()).isEqualTo(1f);
    assertThat(data.trainLabels().scalar_type().intern()).isEqualTo(ScalarType.Long);
    assertThat(data.trainLabels().bincount().size(0)).isEqualTo(10);
    assertThat(data.trainLabels().sum().item_long() + data.testLabels().sum().item_long())
        .as("the sum of all labels, whatever the split")
        .isEqualTo(8070);
  }

  @Test
  void theSeedAloneDecidesTheSplit() {
    DigitsDataset first = DigitsDataset.load(5);

    assertThat(DigitsDataset.load(5).testImages().equal(first.testImages())).isTrue();
    assertThat(DigitsDataset.load(6).testImages().equal(first.testImages())).isFalse();
  }

  @Test
  void theOrderHoldsEveryNumberOnce() {
    int[] order = DigitsDataset.shuffledOrder(100, new Random(1));

    assertThat(IntStream.of(order).sorted().toArray()).isEqualTo(IntStream.range(0, 100).toArray());
  }
}
