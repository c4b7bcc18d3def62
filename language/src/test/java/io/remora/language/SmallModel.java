// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import java.util.List;

/** The shape of {@link io.remora.models.testkit.SmallLanguageModel}. */
final class SmallModel {
  static final LlamaConfig CONFIG =
      new LlamaConfig(
          256,
          32,
          48,
          2,
          4,
          2,
          8,
          512,
          1e-5,
          new LlamaConfig.Rope(10_000, new LlamaConfig.Scaling.Llama3(8, 1, 4, 64)),
          false,
          false,
          false,
          true,
          List.of());

  private SmallModel() {}
}
