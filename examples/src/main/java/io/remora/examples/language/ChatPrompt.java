// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

/**
 * A question in ChatML, the format in which models such as SmolLM2-Instruct and Qwen2-Instruct have
 * learned conversations. Templates of other models, which are programs in Jinja, are not supported.
 */
final class ChatPrompt {
  static final String BEGIN = "<|im_start|>";
  static final String END = "<|im_end|>";

  private ChatPrompt() {}

  /**
   * The text that the model continues with its answer.
   *
   * @param system the system prompt; null for none
   */
  static String of(String system, String question) {
    StringBuilder text = new StringBuilder();
    if (system != null) {
      text.append(turn("system", system));
    }
    return text.append(turn("user", question)).append(BEGIN).append("assistant\n").toString();
  }

  private static String turn(String role, String words) {
    return BEGIN + role + "\n" + words + END + "\n";
  }
}
