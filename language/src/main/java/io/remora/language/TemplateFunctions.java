// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static io.remora.language.TemplateValues.UNDEFINED;
import static io.remora.language.TemplateValues.items;
import static io.remora.language.TemplateValues.text;

import java.time.ZoneId;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.LongStream;

/** The filters, tests, methods and functions of chat templates. Others are refused by name. */
final class TemplateFunctions {

  /** {@code value | name(arguments)}. */
  @FunctionalInterface
  interface Filter {
    Object apply(Object value, List<Object> arguments, Map<String, Object> named);
  }

  /** {@code value is name(arguments)}. */
  @FunctionalInterface
  interface Test {
    boolean holds(Object value, List<Object> arguments);
  }

  /** A map whose entries a template can set. */
  static final class Namespace extends LinkedHashMap<Object, Object> {
    private static final long serialVersionUID = 1;
  }

  private static final Map<String, String> DATE_LETTERS =
      Map.ofEntries(
          Map.entry("a", "EEE"),
          Map.entry("A", "EEEE"),
          Map.entry("b", "MMM"),
          Map.entry("B", "MMMM"),
          Map.entry("d", "dd"),
          Map.entry("e", "d"),
          Map.entry("H", "HH"),
          Map.entry("I", "hh"),
          Map.entry("m", "MM"),
          Map.entry("M", "mm"),
          Map.entry("p", "a"),
          Map.entry("S", "ss"),
          Map.entry("y", "yy"),
          Map.entry("Y", "yyyy"));

  private TemplateFunctions() {}

  static Filter filter(String name) {
    return switch (name) {
      case "trim", "strip" ->
          (value, arguments, named) -> strip(text(value), arguments, true, true);
      case "tojson" ->
          (value, arguments, named) ->
              TemplateValues.json(value, (Long) argument(arguments, named, 0, "indent", null));
      case "length", "count" -> (value, arguments, named) -> TemplateValues.size(value);
      case "upper" -> (value, arguments, named) -> text(value).toUpperCase(Locale.ROOT);
      case "lower" -> (value, arguments, named) -> text(value).toLowerCase(Locale.ROOT);
      case "capitalize" -> (value, arguments, named) -> capitalized(text(value));
      case "title" -> (value, arguments, named) -> titled(text(value));
      case "string", "safe" -> (value, arguments, named) -> text(value);
      case "int" ->
          (value, arguments, named) ->
              value instanceof Number number
                  ? (Object) number.longValue()
                  : Long.valueOf(text(value).strip());
      case "float" ->
          (value, arguments, named) ->
              value instanceof Number number
                  ? (Object) number.doubleValue()
                  : Double.valueOf(text(value).strip());
      case "abs" ->
          (value, arguments, named) ->
              TemplateValues.compare(value, 0L) < 0
                  ? TemplateValues.arithmetic("-", 0L, value)
                  : value;
      case "replace" ->
          (value, arguments, named) ->
              text(value).replace(text(arguments.get(0)), text(arguments.get(1)));
      case "default", "d" ->
          (value, arguments, named) -> {
            boolean orFalse =
                TemplateValues.isTrue(argument(arguments, named, 1, "boolean", false));
            boolean missing = value == UNDEFINED || (orFalse && !TemplateValues.isTrue(value));
            return missing ? argument(arguments, named, 0, "default_value", "") : value;
          };
      case "first" -> (value, arguments, named) -> TemplateValues.element(value, 0L);
      case "last" -> (value, arguments, named) -> TemplateValues.element(value, -1L);
      case "list" -> (value, arguments, named) -> items(value);
      case "items" -> (value, arguments, named) -> entries(value);
      case "reverse" ->
          (value, arguments, named) -> {
            if (value instanceof String text) {
              return new StringBuilder(text).reverse().toString();
            }
            List<Object> reversed = items(value);
            Collections.reverse(reversed);
            return reversed;
          };
      case "join" ->
          (value, arguments, named) -> joined(value, text(argument(arguments, named, 0, "d", "")));
      case "indent" ->
          (value, arguments, named) ->
              indented(
                  text(value),
                  argument(arguments, named, 0, "width", 4L),
                  TemplateValues.isTrue(argument(arguments, named, 1, "first", false)));
      case "map" ->
          (value, arguments, named) -> {
            List<Object> results = new ArrayList<>();
            for (Object each : itemsOrNone(value)) {
              results.add(
                  named.containsKey("attribute")
                      ? TemplateValues.attribute(each, named.get("attribute"))
                      : filter(text(arguments.get(0)))
                          .apply(each, arguments.subList(1, arguments.size()), named));
            }
            return results;
          };
      case "unique" -> (value, arguments, named) -> unique(value, arguments, named);
      case "select", "reject", "selectattr", "rejectattr" ->
          (value, arguments, named) ->
              selected(value, arguments, name.endsWith("attr"), name.startsWith("select"));
      default ->
          throw new TemplateException(
              "The chat template uses the filter '" + name + "', which is not supported here");
    };
  }

  /** The items of a value; none of one that is false, which Jinja's filters of items accept. */
  private static List<Object> itemsOrNone(Object value) {
    return TemplateValues.isTrue(value) ? items(value) : List.of();
  }

  /** The first item of each kind. Texts that differ in case only are of one kind by default. */
  private static List<Object> unique(
      Object value, List<Object> arguments, Map<String, Object> named) {
    boolean caseSensitive =
        TemplateValues.isTrue(argument(arguments, named, 0, "case_sensitive", false));
    Object attribute = argument(arguments, named, 1, "attribute", null);
    Set<Object> kinds = new HashSet<>();
    List<Object> chosen = new ArrayList<>();
    for (Object each : items(value)) {
      Object part = attribute == null ? each : TemplateValues.attribute(each, attribute);
      Object kind =
          part instanceof String text && !caseSensitive ? text.toLowerCase(Locale.ROOT) : part;
      if (kinds.add(kind)) {
        chosen.add(each);
      }
    }
    return chosen;
  }

  private static List<Object> selected(
      Object value, List<Object> arguments, boolean byAttribute, boolean wanted) {
    int test = byAttribute ? 1 : 0;
    Test condition =
        arguments.size() > test
            ? test(text(arguments.get(test)))
            : (each, none) -> TemplateValues.isTrue(each);
    List<Object> rest =
        arguments.size() > test ? arguments.subList(test + 1, arguments.size()) : List.of();
    List<Object> chosen = new ArrayList<>();
    for (Object each : itemsOrNone(value)) {
      Object tested = byAttribute ? TemplateValues.attribute(each, arguments.get(0)) : each;
      if (condition.holds(tested, rest) == wanted) {
        chosen.add(each);
      }
    }
    return chosen;
  }

  static Test test(String name) {
    return switch (name) {
      case "defined" -> (value, arguments) -> value != UNDEFINED;
      case "undefined" -> (value, arguments) -> value == UNDEFINED;
      case "none" -> (value, arguments) -> value == null;
      case "string" -> (value, arguments) -> value instanceof String;
      case "mapping" -> (value, arguments) -> value instanceof Map;
      case "sequence", "iterable" ->
          (value, arguments) ->
              value instanceof List || value instanceof Map || value instanceof String;
      case "number" -> (value, arguments) -> value instanceof Number;
      case "integer" -> (value, arguments) -> value instanceof Long;
      case "float" -> (value, arguments) -> value instanceof Double;
      case "boolean" -> (value, arguments) -> value instanceof Boolean;
      case "true" -> (value, arguments) -> Boolean.TRUE.equals(value);
      case "false" -> (value, arguments) -> Boolean.FALSE.equals(value);
      case "callable" -> (value, arguments) -> value instanceof TemplateValues.Function;
      case "odd" -> (value, arguments) -> number(value) % 2 != 0;
      case "even" -> (value, arguments) -> number(value) % 2 == 0;
      case "divisibleby" -> (value, arguments) -> number(value) % number(arguments.get(0)) == 0;
      case "equalto", "eq" ->
          (value, arguments) -> TemplateValues.areEqual(value, arguments.get(0));
      case "ne" -> (value, arguments) -> !TemplateValues.areEqual(value, arguments.get(0));
      case "in" -> (value, arguments) -> TemplateValues.contains(arguments.get(0), value);
      default ->
          throw new TemplateException(
              "The chat template uses the test '" + name + "', which is not supported here");
    };
  }

  private static long number(Object value) {
    if (value instanceof Long number) {
      return number;
    }
    throw new TemplateException("The chat template needs a number where '" + text(value) + "' is");
  }

  /** {@code owner.name(arguments)}. */
  static Object callMethod(
      Object owner, String name, List<Object> arguments, Map<String, Object> named) {
    if (owner instanceof String string) {
      return callMethod(string, name, arguments);
    }
    if (owner instanceof Map<?, ?> map) {
      if (map.get(name) instanceof TemplateValues.Function function) {
        return function.call(arguments, named);
      }
      switch (name) {
        case "items" -> {
          return entries(map);
        }
        case "keys" -> {
          return new ArrayList<Object>(map.keySet());
        }
        case "values" -> {
          return new ArrayList<Object>(map.values());
        }
        case "get" -> {
          Object key = arguments.get(0);
          return map.containsKey(key)
              ? map.get(key)
              : arguments.size() > 1 ? arguments.get(1) : null;
        }
        default -> {}
      }
    }
    if (owner instanceof List<?> && name.equals("append")) {
      @SuppressWarnings("unchecked")
      List<Object> list = (List<Object>) owner;
      list.add(arguments.get(0));
      return null;
    }
    throw new TemplateException(
        "The chat template calls '" + name + "', which is not supported here");
  }

  private static Object callMethod(String owner, String name, List<Object> arguments) {
    return switch (name) {
      case "strip" -> strip(owner, arguments, true, true);
      case "lstrip" -> strip(owner, arguments, true, false);
      case "rstrip" -> strip(owner, arguments, false, true);
      case "startswith" -> anyOf(arguments.get(0)).stream().anyMatch(owner::startsWith);
      case "endswith" -> anyOf(arguments.get(0)).stream().anyMatch(owner::endsWith);
      case "replace" -> owner.replace(text(arguments.get(0)), text(arguments.get(1)));
      case "upper" -> owner.toUpperCase(Locale.ROOT);
      case "lower" -> owner.toLowerCase(Locale.ROOT);
      case "capitalize" -> capitalized(owner);
      case "title" -> titled(owner);
      case "join" -> joined(arguments.get(0), owner);
      case "find" -> (long) owner.indexOf(text(arguments.get(0)));
      case "split" ->
          split(
              owner,
              arguments.isEmpty() ? null : (String) arguments.get(0),
              arguments.size() > 1 ? number(arguments.get(1)) : Long.MAX_VALUE);
      default ->
          throw new TemplateException(
              "The chat template calls '" + name + "' of a text, which is not supported here");
    };
  }

  private static List<String> anyOf(Object value) {
    return value instanceof String text
        ? List.of(text)
        : items(value).stream().map(TemplateValues::text).toList();
  }

  /** As Python's {@code split}: at white space if there is no separator. */
  private static List<Object> split(String text, String separator, long most) {
    List<Object> parts = new ArrayList<>();
    String rest = separator == null ? text.stripLeading() : text;
    while (true) {
      int end = -1;
      int next = 0;
      if (parts.size() < most) {
        if (separator == null) {
          for (int i = 0; i < rest.length() && end < 0; i++) {
            end = Character.isWhitespace(rest.charAt(i)) ? i : -1;
          }
          next = end + 1;
        } else {
          end = rest.indexOf(separator);
          next = end + separator.length();
        }
      }
      if (end < 0) {
        if (separator != null || !rest.isEmpty()) {
          parts.add(rest);
        }
        return parts;
      }
      parts.add(rest.substring(0, end));
      rest = rest.substring(next);
      rest = separator == null ? rest.stripLeading() : rest;
    }
  }

  private static String strip(String text, List<Object> arguments, boolean left, boolean right) {
    String characters =
        arguments.isEmpty() || arguments.get(0) == null ? null : text(arguments.get(0));
    int begin = 0;
    int end = text.length();
    while (left && begin < end && isStripped(text.charAt(begin), characters)) {
      begin++;
    }
    while (right && end > begin && isStripped(text.charAt(end - 1), characters)) {
      end--;
    }
    return text.substring(begin, end);
  }

  private static boolean isStripped(char each, String characters) {
    return characters == null ? Character.isWhitespace(each) : characters.indexOf(each) >= 0;
  }

  private static String capitalized(String text) {
    return text.isEmpty()
        ? text
        : text.substring(0, 1).toUpperCase(Locale.ROOT)
            + text.substring(1).toLowerCase(Locale.ROOT);
  }

  private static String titled(String text) {
    StringBuilder result = new StringBuilder();
    boolean inWord = false;
    for (int i = 0; i < text.length(); i++) {
      char each = text.charAt(i);
      result.append(inWord ? Character.toLowerCase(each) : Character.toUpperCase(each));
      inWord = Character.isLetter(each);
    }
    return result.toString();
  }

  private static String joined(Object values, String separator) {
    return items(values).stream().map(TemplateValues::text).collect(Collectors.joining(separator));
  }

  private static String indented(String text, Object width, boolean first) {
    String indent = width instanceof String given ? given : " ".repeat((int) number(width));
    List<Object> lines = split(text, "\n", Long.MAX_VALUE);
    List<String> results = new ArrayList<>();
    for (int i = 0; i < lines.size(); i++) {
      String line = text(lines.get(i));
      boolean indents = i == 0 ? first : !line.isBlank();
      results.add(indents ? indent + line : line);
    }
    return String.join("\n", results);
  }

  private static List<Object> entries(Object map) {
    List<Object> entries = new ArrayList<>();
    if (map instanceof Map<?, ?> values) {
      values.forEach(
          (key, value) -> {
            List<Object> entry = new ArrayList<>();
            entry.add(key);
            entry.add(value);
            entries.add(entry);
          });
    }
    return entries;
  }

  private static Object argument(
      List<Object> arguments, Map<String, Object> named, int index, String name, Object otherwise) {
    return index < arguments.size() ? arguments.get(index) : named.getOrDefault(name, otherwise);
  }

  /** The functions that every template knows. */
  static Map<String, TemplateValues.Function> global() {
    return Map.of(
        "raise_exception",
        (arguments, named) -> {
          throw new TemplateException(
              "The chat template refuses the conversation: " + text(arguments.get(0)));
        },
        "namespace",
        (arguments, named) -> {
          Namespace namespace = new Namespace();
          arguments.forEach(each -> namespace.putAll((Map<?, ?>) each));
          namespace.putAll(named);
          return namespace;
        },
        "dict",
        (arguments, named) -> new LinkedHashMap<Object, Object>(named),
        "range",
        (arguments, named) -> range(arguments),
        "strftime_now",
        (arguments, named) -> now(text(arguments.get(0))));
  }

  private static List<Object> range(List<Object> arguments) {
    long from = arguments.size() == 1 ? 0 : number(arguments.get(0));
    long to = number(arguments.get(arguments.size() == 1 ? 0 : 1));
    long step = arguments.size() > 2 ? number(arguments.get(2)) : 1;
    long count = step == 0 ? -1 : Math.max(0, -Math.floorDiv(from - to, step));
    if (count < 0 || count > 100_000) {
      throw new TemplateException("The chat template counts to more than 100000");
    }
    return LongStream.range(0, count).mapToObj(i -> (Object) (from + i * step)).toList();
  }

  private static String now(String format) {
    ZonedDateTime time = ZonedDateTime.now(ZoneId.systemDefault());
    StringBuilder result = new StringBuilder();
    int i = 0;
    while (i < format.length()) {
      if (format.charAt(i) != '%' || i + 1 == format.length()) {
        result.append(format.charAt(i++));
        continue;
      }
      String letter = format.substring(i + 1, i + 2);
      i += 2;
      if (!DATE_LETTERS.containsKey(letter)) {
        throw new TemplateException("The chat template asks for the time as %" + letter);
      }
      result.append(
          DateTimeFormatter.ofPattern(DATE_LETTERS.get(letter), Locale.ENGLISH).format(time));
    }
    return result.toString();
  }
}
