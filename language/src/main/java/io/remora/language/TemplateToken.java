// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A piece of a template in Jinja: text, the beginning or end of a tag, or a word in one.
 *
 * @param value text, name, operator or number; of a string what it stands for
 */
record TemplateToken(Kind kind, String value) {

  enum Kind {
    TEXT,
    /** Of <code>{{ … }}</code>. */
    OUTPUT_BEGIN,
    OUTPUT_END,
    /** Of <code>{% … %}</code>. */
    BLOCK_BEGIN,
    BLOCK_END,
    NAME,
    STRING,
    INTEGER,
    FLOAT,
    OPERATOR,
    END
  }

  private static final Pattern WORD =
      Pattern.compile(
          "\\s+|(?<name>[A-Za-z_]\\w*)|(?<float>\\d+\\.\\d+(?:[eE][+-]?\\d+)?)|(?<int>\\d+)"
              + "|(?<string>'(?:[^'\\\\]|\\\\.)*'|\"(?:[^\"\\\\]|\\\\.)*\")"
              + "|(?<operator>\\*\\*|//|==|!=|<=|>=|[-+*/%~<>=.,:|()\\[\\]{}])",
          Pattern.DOTALL);

  boolean is(Kind expected, String text) {
    return kind == expected && value.equals(text);
  }

  /**
   * The tokens of a template. Newlines after a block and spaces before one on its line are not part
   * of the text, as in transformers ({@code trim_blocks}, {@code lstrip_blocks}).
   */
  static List<TemplateToken> of(String template) {
    // Jinja drops a newline at the end.
    return new Reader(
            template.endsWith("\n") ? template.substring(0, template.length() - 1) : template)
        .read();
  }

  private static final class Reader {
    private final String source;
    private final List<TemplateToken> tokens = new ArrayList<>();
    private int at;

    /** What the last tag does to the text after it. */
    private boolean stripsAll;

    private boolean stripsNewline;

    Reader(String source) {
      this.source = source;
    }

    List<TemplateToken> read() {
      while (at < source.length()) {
        int tag = nextTag();
        addText(tag);
        if (tag < 0) {
          break;
        }
        at = tag;
        readTag();
      }
      tokens.add(new TemplateToken(Kind.END, "the end of the template"));
      return tokens;
    }

    private int nextTag() {
      for (int i = source.indexOf('{', at); i >= 0; i = source.indexOf('{', i + 1)) {
        if (i + 1 < source.length() && "{%#".indexOf(source.charAt(i + 1)) >= 0) {
          return i;
        }
      }
      return -1;
    }

    private void addText(int tag) {
      String text = source.substring(at, tag < 0 ? source.length() : tag);
      if (stripsAll) {
        text = text.stripLeading();
      } else if (stripsNewline && text.startsWith("\n")) {
        text = text.substring(1);
      }
      if (tag >= 0) {
        char mark = tag + 2 < source.length() ? source.charAt(tag + 2) : ' ';
        if (mark == '-') {
          text = text.stripTrailing();
        } else if (mark != '+' && source.charAt(tag + 1) != '{') {
          text = withoutIndentation(text, tag);
        }
      }
      if (!text.isEmpty()) {
        tokens.add(new TemplateToken(Kind.TEXT, text));
      }
    }

    /** Drops the spaces before a tag that is the first thing on its line. */
    private String withoutIndentation(String text, int tag) {
      int line = source.lastIndexOf('\n', tag - 1) + 1;
      return source.substring(line, tag).isBlank()
          ? text.substring(0, Math.max(0, text.length() - (tag - line)))
          : text;
    }

    private void readTag() {
      char kind = source.charAt(at + 1);
      if (kind == '#') {
        int end = source.indexOf("#}", at + 2);
        if (end < 0) {
          throw new TemplateException("A comment of the chat template has no end");
        }
        stripsAll = source.charAt(end - 1) == '-';
        stripsNewline = source.charAt(end - 1) != '+';
        at = end + 2;
        return;
      }
      boolean output = kind == '{';
      tokens.add(new TemplateToken(output ? Kind.OUTPUT_BEGIN : Kind.BLOCK_BEGIN, "a tag"));
      at += 2;
      if (at < source.length() && "-+".indexOf(source.charAt(at)) >= 0) {
        at++;
      }
      String end = output ? "}}" : "%}";
      int open = 0;
      Matcher matcher = WORD.matcher(source);
      while (true) {
        boolean marked =
            open == 0 && (source.startsWith("-" + end, at) || source.startsWith("+" + end, at));
        if (marked || (open == 0 && source.startsWith(end, at))) {
          stripsAll = marked && source.charAt(at) == '-';
          stripsNewline = !output && !marked;
          tokens.add(new TemplateToken(output ? Kind.OUTPUT_END : Kind.BLOCK_END, end));
          at += marked ? 3 : 2;
          return;
        }
        if (!matcher.region(at, source.length()).lookingAt()) {
          throw new TemplateException(
              "The chat template has something unexpected at '"
                  + source.substring(at, Math.min(source.length(), at + 20))
                  + "'");
        }
        at = matcher.end();
        open += addWord(matcher);
      }
    }

    /** Adds a word; 1 if it opens a bracket, -1 if it closes one, else 0. */
    private int addWord(Matcher matcher) {
      if (matcher.group("name") != null) {
        tokens.add(new TemplateToken(Kind.NAME, matcher.group("name")));
      } else if (matcher.group("float") != null) {
        tokens.add(new TemplateToken(Kind.FLOAT, matcher.group("float")));
      } else if (matcher.group("int") != null) {
        tokens.add(new TemplateToken(Kind.INTEGER, matcher.group("int")));
      } else if (matcher.group("string") != null) {
        String quoted = matcher.group("string");
        tokens.add(
            new TemplateToken(Kind.STRING, unescaped(quoted.substring(1, quoted.length() - 1))));
      } else if (matcher.group("operator") != null) {
        String operator = matcher.group("operator");
        tokens.add(new TemplateToken(Kind.OPERATOR, operator));
        return "([{".contains(operator) ? 1 : ")]}".contains(operator) ? -1 : 0;
      }
      return 0;
    }

    private static String unescaped(String text) {
      StringBuilder result = new StringBuilder();
      for (int i = 0; i < text.length(); i++) {
        char each = text.charAt(i);
        if (each != '\\' || i + 1 == text.length()) {
          result.append(each);
          continue;
        }
        char escaped = text.charAt(++i);
        switch (escaped) {
          case 'n' -> result.append('\n');
          case 't' -> result.append('\t');
          case 'r' -> result.append('\r');
          case '\\', '\'', '"' -> result.append(escaped);
          case 'u' -> {
            if (i + 4 >= text.length()) {
              throw new TemplateException("The chat template has an unfinished \\u");
            }
            result.append((char) Integer.parseInt(text.substring(i + 1, i + 5), 16));
            i += 4;
          }
          default -> result.append('\\').append(escaped);
        }
      }
      return result.toString();
    }
  }
}
