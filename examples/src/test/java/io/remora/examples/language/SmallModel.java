// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import java.util.List;

/** What the tests try things with. */
final class SmallModel {
  static final LlamaConfig CONFIG =
      new LlamaConfig(
          100,
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
