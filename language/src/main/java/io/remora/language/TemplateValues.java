// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.StringJoiner;

/**
 * What a template computes with, by Python's rules: null is None; there are Boolean, Long, Double,
 * String, List and Map, functions, and {@link #UNDEFINED} for a name without a value.
 */
final class TemplateValues {
  /** The value of a name that has none: prints nothing, counts as false. */
  static final Object UNDEFINED =
      new Object() {
        @Override
        public String toString() {
          return "";
        }
      };

  /** Something that can be called. */
  @FunctionalInterface
  interface Function {
    Object call(List<Object> arguments, Map<String, Object> named);
  }

  private static final int MOST_CHARACTERS = 16 << 20;

  private TemplateValues() {}

  /** A template from elsewhere must not fill the memory. */
  static void checkLength(long characters) {
    if (characters > MOST_CHARACTERS) {
      throw new TemplateException("The chat template makes a text of more than 16 MiB");
    }
  }

  static boolean isTrue(Object value) {
    if (value instanceof Boolean truth) {
      return truth;
    }
    if (value instanceof Number number) {
      return number.doubleValue() != 0;
    }
    if (value instanceof String text) {
      return !text.isEmpty();
    }
    if (value instanceof List<?> list) {
      return !list.isEmpty();
    }
    if (value instanceof Map<?, ?> map) {
      return !map.isEmpty();
    }
    return value instanceof Function;
  }

  /** As Python's {@code str}. */
  static String text(Object value) {
    return value instanceof String text ? text : literal(value);
  }

  /** As Python's {@code repr}. */
  private static String literal(Object value) {
    if (value == null) {
      return "None";
    }
    if (value instanceof Boolean truth) {
      return truth ? "True" : "False";
    }
    if (value instanceof String text) {
      char quote = text.contains("'") && !text.contains("\"") ? '"' : '\'';
      String escaped =
          text.replace("\\", "\\\\")
              .replace("\n", "\\n")
              .replace("\r", "\\r")
              .replace("\t", "\\t")
              .replace(quote == '\'' ? "'" : "\"", "\\" + quote);
      return quote + escaped + quote;
    }
    if (value instanceof List<?> list) {
      StringJoiner items = new StringJoiner(", ", "[", "]");
      list.forEach(each -> items.add(literal(each)));
      return items.toString();
    }
    if (value instanceof Map<?, ?> map) {
      StringJoiner items = new StringJoiner(", ", "{", "}");
      map.forEach((key, each) -> items.add(literal(key) + ": " + literal(each)));
      return items.toString();
    }
    return value.toString();
  }

  /** As Python's {@code json.dumps} without {@code ensure_ascii}; {@code indent} may be null. */
  static String json(Object value, Long indent) {
    StringBuilder out = new StringBuilder();
    json(value, indent == null ? -1 : Math.toIntExact(indent), 0, out);
    return out.toString();
  }

  private static void json(Object value, int indent, int depth, StringBuilder out) {
    if (value instanceof String text) {
      jsonText(text, out);
    } else if (value instanceof List<?> list) {
      out.append('[');
      for (int i = 0; i < list.size(); i++) {
        separate(i, indent, depth + 1, out);
        json(list.get(i), indent, depth + 1, out);
      }
      close(list.isEmpty(), indent, depth, ']', out);
    } else if (value instanceof Map<?, ?> map) {
      out.append('{');
      int i = 0;
      for (Map.Entry<?, ?> entry : map.entrySet()) {
        separate(i++, indent, depth + 1, out);
        jsonText(text(entry.getKey()), out);
        out.append(": ");
        json(entry.getValue(), indent, depth + 1, out);
      }
      close(map.isEmpty(), indent, depth, '}', out);
    } else if (value == null) {
      out.append("null");
    } else if (value instanceof Boolean || value instanceof Number) {
      out.append(value);
    } else {
      throw new TemplateException(
          "The chat template makes JSON of a value that JSON does not have");
    }
  }

  private static void separate(int index, int indent, int depth, StringBuilder out) {
    if (index > 0) {
      out.append(indent < 0 ? ", " : ",");
    }
    if (indent >= 0) {
      out.append('\n').append(" ".repeat(indent * depth));
    }
  }

  private static void close(boolean empty, int indent, int depth, char end, StringBuilder out) {
    if (!empty && indent >= 0) {
      out.append('\n').append(" ".repeat(indent * depth));
    }
    out.append(end);
  }

  private static void jsonText(String text, StringBuilder out) {
    out.append('"');
    for (int i = 0; i < text.length(); i++) {
      char each = text.charAt(i);
      switch (each) {
        case '"' -> out.append("\\\"");
        case '\\' -> out.append("\\\\");
        case '\n' -> out.append("\\n");
        case '\r' -> out.append("\\r");
        case '\t' -> out.append("\\t");
        case '\b' -> out.append("\\b");
        case '\f' -> out.append("\\f");
        default -> {
          if (each < ' ') {
            out.append("\\u%04x".formatted((int) each));
          } else {
            out.append(each);
          }
        }
      }
    }
    out.append('"');
  }

  static boolean areEqual(Object left, Object right) {
    if (left instanceof Number a && right instanceof Number b) {
      return a.doubleValue() == b.doubleValue();
    }
    return left == null ? right == null : left.equals(right);
  }

  static int compare(Object left, Object right) {
    if (left instanceof Number a && right instanceof Number b) {
      return Double.compare(a.doubleValue(), b.doubleValue());
    }
    if (left instanceof String a && right instanceof String b) {
      return a.compareTo(b);
    }
    throw new TemplateException(
        "The chat template compares " + literal(left) + " with " + literal(right));
  }

  static boolean contains(Object container, Object value) {
    if (container instanceof String text) {
      return value instanceof String part && text.contains(part);
    }
    if (container instanceof Map<?, ?> map) {
      return map.containsKey(value);
    }
    return items(container).stream().anyMatch(each -> areEqual(each, value));
  }

  /** What a loop over the value sees. */
  static List<Object> items(Object value) {
    if (value instanceof List<?> list) {
      return new ArrayList<>(list);
    }
    if (value instanceof Map<?, ?> map) {
      return new ArrayList<>(map.keySet());
    }
    if (value instanceof String text) {
      return new ArrayList<>(text.codePoints().mapToObj(Character::toString).toList());
    }
    if (value == UNDEFINED) {
      return List.of();
    }
    throw new TemplateException("The chat template loops over " + literal(value));
  }

  static long size(Object value) {
    return items(value).size();
  }

  /** {@code value.name}, or the element of a map. */
  static Object attribute(Object value, Object name) {
    if (value instanceof Map<?, ?> map && map.containsKey(name)) {
      return map.get(name);
    }
    if (value == UNDEFINED) {
      throw new TemplateException(
          "The chat template asks for '%s' of what is not there".formatted(name));
    }
    return UNDEFINED;
  }

  /** {@code value[index]}. */
  static Object element(Object value, Object index) {
    if (index instanceof Long number && !(value instanceof Map)) {
      List<Object> items = items(value);
      long at = number < 0 ? number + items.size() : number;
      return at >= 0 && at < items.size() ? items.get((int) at) : UNDEFINED;
    }
    return attribute(value, index);
  }

  /** {@code value[from:to:step]}; each may be null. */
  static Object slice(Object value, Long from, Long to, Long step) {
    List<Object> items = items(value);
    long stride = step == null ? 1 : step;
    if (stride == 0) {
      throw new TemplateException("The chat template has a slice with step 0");
    }
    long size = items.size();
    long begin = bound(from, size, stride > 0 ? 0 : size - 1, stride);
    long end = bound(to, size, stride > 0 ? size : -1, stride);
    List<Object> chosen = new ArrayList<>();
    for (long i = begin; stride > 0 ? i < end : i > end; i += stride) {
      chosen.add(items.get((int) i));
    }
    if (value instanceof String) {
      StringBuilder text = new StringBuilder();
      chosen.forEach(text::append);
      return text.toString();
    }
    return chosen;
  }

  private static long bound(Long given, long size, long otherwise, long stride) {
    if (given == null) {
      return otherwise;
    }
    long at = given < 0 ? given + size : given;
    return stride > 0 ? Math.max(0, Math.min(size, at)) : Math.max(-1, Math.min(size - 1, at));
  }

  static Object add(Object left, Object right) {
    if (left instanceof String a && right instanceof String b) {
      checkLength((long) a.length() + b.length());
      return a + b;
    }
    if (left instanceof List<?> a && right instanceof List<?> b) {
      List<Object> both = new ArrayList<>(a);
      both.addAll(b);
      checkLength(both.size());
      return both;
    }
    return arithmetic("+", left, right);
  }

  static Object arithmetic(String operator, Object left, Object right) {
    if (operator.equals("*") && left instanceof String text && right instanceof Long times) {
      checkLength(Math.max(1, text.length()) * Math.max(0, Math.min(times, Integer.MAX_VALUE)));
      return text.repeat(Math.toIntExact(Math.max(0, times)));
    }
    Object a = left instanceof Boolean truth ? (Object) (truth ? 1L : 0L) : left;
    Object b = right instanceof Boolean truth ? (Object) (truth ? 1L : 0L) : right;
    if (!(a instanceof Number first && b instanceof Number second)) {
      throw new TemplateException(
          "The chat template computes %s %s %s".formatted(literal(left), operator, literal(right)));
    }
    double x = first.doubleValue();
    double y = second.doubleValue();
    if (y == 0 && "//%".contains(operator)) {
      throw new TemplateException("The chat template divides by zero");
    }
    if (a instanceof Long i && b instanceof Long j && !operator.equals("/")) {
      return switch (operator) {
        case "+" -> i + j;
        case "-" -> i - j;
        case "*" -> i * j;
        case "//" -> Math.floorDiv(i, j);
        case "%" -> Math.floorMod(i, j);
        default -> j < 0 ? (Object) Math.pow(x, y) : (Object) (long) Math.pow(x, y);
      };
    }
    return switch (operator) {
      case "+" -> x + y;
      case "-" -> x - y;
      case "*" -> x * y;
      case "/" -> x / y;
      case "//" -> Math.floor(x / y);
      case "%" -> x - Math.floor(x / y) * y;
      default -> Math.pow(x, y);
    };
  }
}
