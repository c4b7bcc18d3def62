// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Operator;
import org.bytedeco.pytorch.OperatorVector;
import org.bytedeco.pytorch.global.torch;

/**
 * One overload of an operator as libtorch's dispatcher describes it.
 *
 * @param name with namespace, {@code aten::add}
 * @param overload {@code Tensor}, or empty
 * @param parameters its parameters
 * @param results its results
 * @param text the schema itself
 */
record OperatorSchema(
    String name,
    String overload,
    List<Parameter> parameters,
    List<Parameter> results,
    String text) {

  /**
   * A parameter or a result.
   *
   * @param type without alias annotation: {@code Tensor?[]}
   * @param name empty for most results
   * @param alias the text in parentheses after the type, such as {@code a!}, or empty
   * @param hasDefault whether callers may omit it
   * @param keyword whether it comes after the star
   */
  record Parameter(String type, String name, String alias, boolean hasDefault, boolean keyword) {
    boolean written() {
      return alias.contains("!");
    }

    boolean out() {
      return written() && keyword;
    }

    boolean holdsTensors() {
      return type.startsWith("Tensor");
    }

    boolean optional() {
      return type.endsWith("?");
    }

    boolean list() {
      return type.contains("[");
    }
  }

  /** All of namespace {@code aten}, sorted by key. */
  static List<OperatorSchema> all() {
    TreeMap<String, OperatorSchema> found = new TreeMap<>();
    try (PointerScope scope = new PointerScope()) {
      OperatorVector operators = torch.getAllOperators();
      for (long i = 0; i < operators.size(); i++) {
        Operator operator = operators.get(i);
        if (!operator.isC10Op()) {
          continue;
        }
        String text = torch.toString(operator.schema()).getString();
        if (text.startsWith("aten::")) {
          OperatorSchema schema = parse(text);
          found.put(schema.key(), schema);
        }
      }
    }
    return List.copyOf(found.values());
  }

  static OperatorSchema parse(String text) {
    int open = text.indexOf('(');
    int close = matching(text, open);
    String fullName = text.substring(0, open);
    int dot = fullName.indexOf('.', fullName.indexOf("::") + 2);
    String name = dot < 0 ? fullName : fullName.substring(0, dot);
    String overload = dot < 0 ? "" : fullName.substring(dot + 1);
    String returned = text.substring(text.indexOf("->", close) + 2).strip();
    if (returned.startsWith("(") && matching(returned, 0) == returned.length() - 1) {
      returned = returned.substring(1, returned.length() - 1);
    }
    return new OperatorSchema(
        name, overload, parameters(text.substring(open + 1, close)), parameters(returned), text);
  }

  /** {@code add.Tensor}. */
  String key() {
    String shortName = shortName();
    return overload.isEmpty() ? shortName : shortName + "." + overload;
  }

  /** Without the namespace. */
  String shortName() {
    return name.substring(name.indexOf("::") + 2);
  }

  boolean mutates() {
    return parameters.stream().anyMatch(Parameter::written);
  }

  boolean hasOut() {
    return parameters.stream().anyMatch(Parameter::out);
  }

  boolean takesTensors() {
    return parameters.stream().anyMatch(p -> p.holdsTensors() && !p.out());
  }

  boolean random() {
    return parameters.stream().anyMatch(p -> p.type().startsWith("Generator"));
  }

  private static int matching(String text, int open) {
    int depth = 0;
    boolean quoted = false;
    for (int i = open; i < text.length(); i++) {
      char c = text.charAt(i);
      if (c == '"') {
        quoted = !quoted;
      } else if (!quoted && c == '(') {
        depth++;
      } else if (!quoted && c == ')' && --depth == 0) {
        return i;
      }
    }
    throw new IllegalArgumentException("No closing parenthesis in " + text);
  }

  private static List<Parameter> parameters(String text) {
    List<Parameter> result = new ArrayList<>();
    boolean keyword = false;
    for (String part : splitTop(text, ',')) {
      if (part.equals("*")) {
        keyword = true;
      } else {
        result.add(parameter(part, keyword));
      }
    }
    return List.copyOf(result);
  }

  private static Parameter parameter(String text, boolean keyword) {
    StringBuilder type = new StringBuilder();
    String alias = "";
    int i = 0;
    while (i < text.length() && text.charAt(i) != ' ') {
      if (text.charAt(i) == '(') {
        int close = matching(text, i);
        alias = text.substring(i + 1, close);
        i = close + 1;
      } else {
        type.append(text.charAt(i++));
      }
    }
    String rest = text.substring(i).strip();
    int equals = rest.indexOf('=');
    String name = equals < 0 ? rest : rest.substring(0, equals);
    return new Parameter(type.toString(), name, alias, equals >= 0, keyword);
  }

  /** Parts between separators outside of brackets, parentheses and quotes. */
  static List<String> splitTop(String text, char separator) {
    List<String> parts = new ArrayList<>();
    int depth = 0;
    boolean quoted = false;
    int start = 0;
    for (int i = 0; i <= text.length(); i++) {
      char c = i < text.length() ? text.charAt(i) : separator;
      if (c == '"') {
        quoted = !quoted;
      } else if (c == '(' || c == '[') {
        depth++;
      } else if (c == ')' || c == ']') {
        depth--;
      }
      if (i == text.length() || (c == separator && depth == 0 && !quoted)) {
        String part = text.substring(start, i).strip();
        if (!part.isEmpty()) {
          parts.add(part);
        }
        start = i + 1;
      }
    }
    return parts;
  }
}
