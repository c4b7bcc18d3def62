// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;

/**
 * Turns tokens into text as they arrive. A character may take several tokens, and a stop string
 * even more, so text that could still become either is held back.
 */
public final class TokenText {
  private static final char UNFINISHED = '\uFFFD';

  private final Function<long[], String> decoder;
  private final List<String> stops;
  private final List<Long> tokens = new ArrayList<>();
  // Tokens are decoded together with earlier ones, on which a token's text depends. Those from
  // `known` on are new.
  private int known;
  private String held = "";
  private boolean stopped;

  /**
   * An empty text.
   *
   * @param decoder gives the text of tokens, with U+FFFD for an unfinished character
   * @param stops strings that end the text and are not part of it
   */
  public TokenText(Function<long[], String> decoder, List<String> stops) {
    this.decoder = decoder;
    this.stops = stops.stream().filter(stop -> !stop.isEmpty()).toList();
  }

  /** Adds a token and returns the text that is certain now; often nothing. */
  public String add(long token) {
    tokens.add(token);
    String before = decode(known);
    String now = decode(tokens.size());
    if (now.length() <= before.length() || now.charAt(now.length() - 1) == UNFINISHED) {
      return "";
    }
    tokens.subList(0, known).clear();
    known = tokens.size();
    return release(now.substring(before.length()));
  }

  /** Whether a stop string has arrived; then no more text follows. */
  public boolean stopped() {
    return stopped;
  }

  /** The text that is still held back after the last token. */
  public String finish() {
    if (stopped) {
      return "";
    }
    String rest = held + decode(tokens.size()).substring(decode(known).length());
    held = "";
    tokens.clear();
    known = 0;
    return rest;
  }

  private String decode(int count) {
    return decoder.apply(tokens.stream().limit(count).mapToLong(Long::longValue).toArray());
  }

  private String release(String text) {
    String all = held + text;
    int end = stops.stream().mapToInt(all::indexOf).filter(at -> at >= 0).min().orElse(-1);
    if (end >= 0) {
      stopped = true;
      held = "";
      return all.substring(0, end);
    }
    int certain = all.length() - longestBeginningOfAStop(all);
    held = all.substring(certain);
    return all.substring(0, certain);
  }

  private int longestBeginningOfAStop(String text) {
    int longest = 0;
    for (String stop : stops) {
      for (int length = Math.min(stop.length() - 1, text.length()); length > longest; length--) {
        if (text.endsWith(stop.substring(0, length))) {
          longest = length;
        }
      }
    }
    return longest;
  }
}
