// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.util.regex.Pattern;

/**
 * A shell pattern like those of Python's {@code fnmatch}. It matches the whole path, and {@code /}
 * is an ordinary character.
 */
final class FilePattern {
  private FilePattern() {}

  static Pattern compile(String pattern) {
    String whole = pattern.endsWith("/") ? pattern + "*" : pattern;
    StringBuilder regex = new StringBuilder();
    for (int i = 0; i < whole.length(); ) {
      char c = whole.charAt(i++);
      int end = c == '[' ? endOfSet(whole, i) : -1;
      if (c == '*') {
        regex.append(".*");
      } else if (c == '?') {
        regex.append('.');
      } else if (end >= 0) {
        regex.append(set(whole.substring(i, end)));
        i = end + 1;
      } else {
        regex.append(Pattern.quote(String.valueOf(c)));
      }
    }
    return Pattern.compile(regex.toString(), Pattern.DOTALL);
  }

  /**
   * The end of the set that begins at this position; -1 when there is none, so that the bracket is
   * an ordinary character.
   */
  private static int endOfSet(String pattern, int begin) {
    int from = begin;
    if (from < pattern.length() && pattern.charAt(from) == '!') {
      from++;
    }
    // A bracket right at the begin belongs to the set.
    return pattern.indexOf(']', Math.min(from + 1, pattern.length()));
  }

  private static String set(String set) {
    boolean not = set.startsWith("!");
    String characters = (not ? set.substring(1) : set).replaceAll("[\\\\\\[\\]^&]", "\\\\$0");
    return (not ? "[^" : "[") + characters + "]";
  }
}
