// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import io.remora.runtime.TorchLibrary;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

final class RotaryEmbeddingTest {

  @Test
  @Tag("fast")
  void turnsPairsThatAreHalfAHeadApart() {
    TorchLibrary.bytedeco();
    try (PointerScope temporaries = new PointerScope()) {
      RotaryEmbedding rotary =
          new RotaryEmbedding(SmallModel.CONFIG, 10, new Device("cpu"), ScalarType.Float);
      float[] angles = RotaryEmbedding.frequencies(SmallModel.CONFIG);
      Tensor head = Tensor.create(1f, 2, 3, 4, 5, 6, 7, 8).view(1, 1, 1, 8);
      Tensor turned = rotary.at(Tensor.create(3L).view(1)).apply(head);

      for (int i = 0; i < 4; i++) {
        double cosine = Math.cos(3 * angles[i]);
        double sine = Math.sin(3 * angles[i]);
        double first = i + 1;
        double second = i + 5;
        assertThat((double) turned.view(8).select(0, i).item_float())
            .isCloseTo(first * cosine - second * sine, within(1e-5));
        assertThat((double) turned.view(8).select(0, i + 4L).item_float())
            .isCloseTo(second * cosine + first * sine, within(1e-5));
      }
    }
  }

  @Test
  @Tag("critical")
  void stretchesSlowAnglesOnly() {
    // The four angles make 10.2, 1.02, 0.1 and 0.01 turns in 64 positions. They are kept above 4
    // and divided below 1.
    float[] angles = RotaryEmbedding.frequencies(SmallModel.CONFIG);

    assertThat(angles[0]).isEqualTo(1f);
    assertThat((double) angles[1]).isBetween(0.1 / 8, 0.1 * 0.2);
    assertThat((double) angles[2]).isCloseTo(0.01 / 8, within(1e-8));
    assertThat((double) angles[3]).isCloseTo(0.001 / 8, within(1e-9));
  }
}
