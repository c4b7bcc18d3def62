// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

/** A model's tokenizer, from its file {@code tokenizer.json}. */
public final class TextTokenizer implements AutoCloseable {
  static {
    // Otherwise DJL reports each start on Amazon's computers to its makers, and looks for CUDA
    // natives on the network.
    System.setProperty("OPT_OUT_TRACKING", "true");
    System.setProperty("ai.djl.offline", "true");
  }

  private final HuggingFaceTokenizer tokenizer;

  private TextTokenizer(HuggingFaceTokenizer tokenizer) {
    this.tokenizer = tokenizer;
  }

  /**
   * Reads a file {@code tokenizer.json}.
   *
   * @throws UncheckedIOException when it cannot be read
   */
  public static TextTokenizer read(Path file) {
    // The file may ask for truncation or padding, but these programs need the whole text.
    Map<String, String> options = Map.of("truncation", "false", "padding", "false");
    try (InputStream input = Files.newInputStream(file)) {
      return new TextTokenizer(HuggingFaceTokenizer.newInstance(input, options));
    } catch (IOException e) {
      throw new UncheckedIOException("No tokenizer: " + e, e);
    }
  }

  /**
   * A text's tokens.
   *
   * @param special whether to add the tokens that the model expects around a text
   */
  public long[] encode(String text, boolean special) {
    return tokenizer.encode(text, special, false).getIds();
  }

  /** The text of these tokens, without special ones; an unfinished character is U+FFFD. */
  public String decode(long[] tokens) {
    return tokenizer.decode(tokens, true);
  }

  /**
   * The token for exactly this text.
   *
   * @throws IllegalArgumentException when there is none
   */
  public long token(String text) {
    long[] tokens = encode(text, false);
    if (tokens.length != 1) {
      throw new IllegalArgumentException("The model's vocabulary has no token " + text);
    }
    return tokens[0];
  }

  @Override
  public void close() {
    tokenizer.close();
  }
}
