// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.addcmul;
import static org.bytedeco.pytorch.global.torch.cat;
import static org.bytedeco.pytorch.global.torch.empty;

import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * Rotates queries and keys by angles that grow with the position. The sines and cosines of all
 * positions are computed once, on the device, and looked up.
 */
final class RotaryEmbedding {
  private final Tensor cosines;
  private final Tensor sines;

  /**
   * The rotation of the tokens of one call.
   *
   * @param cosines {@code [time, head size]}
   * @param sines {@code [time, head size]}, the first half of each row negated
   */
  record Rotation(Tensor cosines, Tensor sines) {

    /** {@code [batch, heads, time, head size]} to the same shape. */
    Tensor apply(Tensor heads) {
      // The rotated pairs are elements i and i + half of a head. Rolling by half puts each beside
      // its partner.
      Tensor partners = heads.roll(new long[] {heads.size(-1) / 2}, -1);
      return addcmul(heads.mul(cosines), partners, sines);
    }
  }

  /** Tables {@code [positions, head size]} in the model's dtype. */
  RotaryEmbedding(LlamaConfig config, long positions, Device device, ScalarType dtype) {
    long[] shape = {positions, config.headSize()};
    cosines = empty(shape, Place.options(device, dtype), null);
    sines = empty(shape, Place.options(device, dtype), null);
    try (PointerScope temporaries = new PointerScope()) {
      Tensor frequencies = Tensor.create(frequencies(config)).to(device, ScalarType.Float);
      Tensor angles =
          PositionTable.range(positions, device).to(ScalarType.Float).unsqueeze(1).mul(frequencies);
      Tensor cosine = angles.cos();
      Tensor sine = angles.sin();
      cosines.copy_(cat(new TensorVector(cosine, cosine), -1));
      sines.copy_(cat(new TensorVector(sine.neg(), sine), -1));
    }
  }

  /** The rotation of these positions, {@code [time]}. */
  Rotation at(Tensor positions) {
    return new Rotation(cosines.index_select(0, positions), sines.index_select(0, positions));
  }

  /** Radians for each position, {@code [head size / 2]}. */
  static float[] frequencies(LlamaConfig config) {
    float[] frequencies = new float[config.headSize() / 2];
    for (int i = 0; i < frequencies.length; i++) {
      double frequency = Math.pow(config.rope().theta(), -2.0 * i / config.headSize());
      frequencies[i] = (float) scaled(frequency, config.rope().scaling());
    }
    return frequencies;
  }

  private static double scaled(double frequency, LlamaConfig.Scaling scaling) {
    if (scaling instanceof LlamaConfig.Scaling.Linear linear) {
      return frequency / linear.factor();
    }
    if (scaling instanceof LlamaConfig.Scaling.Llama3 llama3) {
      double turns = llama3.originalPositions() * frequency / (2 * Math.PI);
      double share =
          (turns - llama3.lowFrequency()) / (llama3.highFrequency() - llama3.lowFrequency());
      double kept = Math.max(0, Math.min(1, share));
      return kept * frequency + (1 - kept) * frequency / llama3.factor();
    }
    return frequency;
  }
}
