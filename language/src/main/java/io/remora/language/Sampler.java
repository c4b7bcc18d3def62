// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.log_softmax;
import static org.bytedeco.pytorch.global.torch.softmax;

import org.bytedeco.pytorch.Generator;
import org.bytedeco.pytorch.GeneratorOptional;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.T_TensorTensor_T;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * Chooses the next token from scores, on the scores' device: nothing is read.
 *
 * @param temperature what scores are divided by; 0: always the token with the highest score
 * @param topK how many of the likeliest tokens are considered; 0: all
 * @param topP share of probability that is considered, from the likeliest token down, 0 to 1
 * @param generator draws the tokens; of the scores' device. Without a temperature it may be null
 */
public record Sampler(double temperature, int topK, double topP, Generator generator) {

  public Sampler {
    if (!(temperature >= 0) || topK < 0 || !(topP > 0 && topP <= 1)) {
      throw new IllegalArgumentException(
          "temperature and top-k must not be negative, and top-p above 0 and at most 1");
    }
  }

  /** {@code [batch, vocabulary]} to tokens {@code [batch, 1]}, int64. */
  public Tensor next(Tensor scores) {
    if (temperature == 0) {
      return scores.argmax(new LongOptional(-1), true);
    }
    long vocabulary = scores.size(-1);
    long considered = topK == 0 ? vocabulary : Math.min(topK, vocabulary);
    Tensor warm = scores.to(ScalarType.Float).div(new Scalar(temperature));
    if (considered == vocabulary && topP == 1) {
      return softmax(warm, -1).multinomial(1, false, new GeneratorOptional(generator));
    }
    T_TensorTensor_T likeliest = warm.topk(considered, -1, true, true);
    Tensor probabilities = softmax(likeliest.get0(), -1);
    if (topP < 1) {
      // Drops a token if those before it already have the share. The likeliest always stays.
      Tensor before = probabilities.cumsum(-1).sub(probabilities);
      probabilities = probabilities.masked_fill(before.ge(new Scalar(topP)), new Scalar(0.0));
    }
    Tensor drawn = probabilities.multinomial(1, false, new GeneratorOptional(generator));
    return likeliest.get1().gather(-1, drawn);
  }

  /** Always the token with the highest score. */
  public static Sampler greedy() {
    return new Sampler(0, 0, 1, null);
  }

  /** The logarithm of the model's probability of these tokens, {@code [batch, 1]}, float32. */
  static Tensor logProbability(Tensor scores, Tensor tokens) {
    return log_softmax(scores.to(ScalarType.Float), -1).gather(-1, tokens);
  }
}
