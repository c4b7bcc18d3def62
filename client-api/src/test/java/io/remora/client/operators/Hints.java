// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * Arguments for operators that need particular ones, from the resource {@code operators.txt}. One
 * line is one sample: {@code name: argument=value argument=value}, where the name may be that of an
 * overload and a value one of
 *
 * <ul>
 *   <li>{@code v[2,3]}: a tensor of the trial's dtype; {@code f d h bf f8 c i i32 i16 i8 u8 b}
 *       instead of {@code v}: of this dtype; a suffix {@code :kind} or {@code :kind(1,2)} sets the
 *       kind of values (see {@link Input.Fill.Kind}; {@code :<5} is short for indices below 5)
 *   <li>{@code cpu:i[2]}: a tensor that stays on the CPU; {@code storage:v[2]}: a tensor's storage
 *   <li>{@code [1,2]}, {@code (v[2],v[3])}: lists
 *   <li>{@code 1}, {@code 0.5}, {@code true}, {@code none}, {@code "text"}, {@code 1+2j}
 *   <li>{@code <dtype>}, {@code <device>}, {@code <generator>}; {@code f32} and the like: a dtype
 * </ul>
 */
final class Hints {

  private static final Map<String, ScalarType> DTYPES =
      Map.ofEntries(
          Map.entry("f", ScalarType.Float),
          Map.entry("d", ScalarType.Double),
          Map.entry("h", ScalarType.Half),
          Map.entry("bf", ScalarType.BFloat16),
          Map.entry("c", ScalarType.ComplexFloat),
          Map.entry("f8", ScalarType.Float8_e4m3fn),
          Map.entry("i", ScalarType.Long),
          Map.entry("i32", ScalarType.Int),
          Map.entry("i16", ScalarType.Short),
          Map.entry("i8", ScalarType.Char),
          Map.entry("u8", ScalarType.Byte),
          Map.entry("b", ScalarType.Bool));

  private final Map<String, List<Map<String, Input>>> samples = new HashMap<>();

  private Hints() {}

  static Hints load() {
    Hints hints = new Hints();
    try (InputStream stream = Hints.class.getResourceAsStream("operators.txt");
        BufferedReader lines =
            new BufferedReader(new InputStreamReader(stream, StandardCharsets.UTF_8))) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        if (!line.isBlank() && !line.startsWith("#")) {
          hints.add(line);
        }
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return hints;
  }

  private void add(String line) {
    int colon = line.indexOf(": ");
    String names = colon < 0 ? line.strip().replaceAll(":$", "") : line.substring(0, colon);
    Map<String, Input> sample = new LinkedHashMap<>();
    String rest = colon < 0 ? "" : line.substring(colon + 2);
    for (String part : OperatorSchema.splitTop(rest, ' ')) {
      int equals = part.indexOf('=');
      if (equals < 0) {
        throw new IllegalArgumentException("No '=' in '" + part + "' of " + line);
      }
      try {
        sample.put(part.substring(0, equals), parse(part.substring(equals + 1)));
      } catch (RuntimeException e) {
        throw new IllegalArgumentException(part + " of " + line, e);
      }
    }
    for (String name : OperatorSchema.splitTop(names, ',')) {
      samples.computeIfAbsent(name, n -> new ArrayList<>()).add(sample);
    }
  }

  /**
   * Samples of an overload, or else of its operator, or else of the operator of which it is the
   * in-place form.
   */
  List<Map<String, Input>> of(OperatorSchema schema) {
    String name = schema.shortName();
    String functional = name.endsWith("_") ? name.substring(0, name.length() - 1) : name;
    String overload = schema.overload();
    String plain = overload.replaceAll("_?(out|grad_input|output|values)$", "");
    for (String key :
        List.of(
            schema.key(),
            name + "." + plain,
            functional + "." + overload,
            functional + "." + plain,
            name,
            functional)) {
      List<Map<String, Input>> found = samples.get(key);
      if (found != null) {
        return found;
      }
    }
    return List.of();
  }

  static Input parse(String text) {
    if (text.startsWith("(")) {
      return list(text.substring(1, text.length() - 1));
    } else if (text.startsWith("[")) {
      return list(text.substring(1, text.length() - 1));
    } else if (text.startsWith("\"")) {
      return new Input.Plain(text.substring(1, text.length() - 1));
    } else if (text.startsWith("cpu:")) {
      return new Input.OnCpu((Input.OfTensor) parse(text.substring(4)));
    } else if (text.startsWith("storage:")) {
      return new Input.OfStorage((Input.OfTensor) parse(text.substring(8)));
    }
    switch (text) {
      case "none" -> {
        return new Input.Plain(null);
      }
      case "true", "false" -> {
        return new Input.Plain(Boolean.valueOf(text));
      }
      case "<dtype>" -> {
        return new Input.OfDtype();
      }
      case "<device>" -> {
        return new Input.OnDevice();
      }
      case "<generator>" -> {
        return new Input.OfGenerator();
      }
      case "f32" -> {
        return new Input.Plain((long) ScalarType.Float.value);
      }
      case "f64" -> {
        return new Input.Plain((long) ScalarType.Double.value);
      }
      case "i64" -> {
        return new Input.Plain((long) ScalarType.Long.value);
      }
      case "f16" -> {
        return new Input.Plain((long) ScalarType.Half.value);
      }
      default -> {}
    }
    int bracket = text.indexOf('[');
    if (bracket > 0) {
      return tensor(text, bracket);
    } else if (text.endsWith("j")) {
      int plus = text.indexOf('+');
      return new Input.OfComplex(
          Double.parseDouble(text.substring(0, plus)),
          Double.parseDouble(text.substring(plus + 1, text.length() - 1)));
    } else if (text.matches("-?\\d+")) {
      return new Input.Plain(Long.valueOf(text));
    }
    return new Input.Plain(Double.valueOf(text));
  }

  private static Input list(String text) {
    return new Input.OfList(OperatorSchema.splitTop(text, ',').stream().map(Hints::parse).toList());
  }

  private static Input tensor(String text, int bracket) {
    String kind = text.substring(0, bracket);
    int close = text.indexOf(']');
    List<Long> sizes =
        OperatorSchema.splitTop(text.substring(bracket + 1, close), ',').stream()
            .map(Long::valueOf)
            .toList();
    Input.Fill fill = Input.Fill.NORMAL;
    if (close + 1 < text.length()) {
      fill = fill(text.substring(close + 2));
    }
    if (!kind.equals("v") && !DTYPES.containsKey(kind)) {
      throw new IllegalArgumentException("Unknown dtype " + kind);
    }
    return new Input.OfTensor(DTYPES.get(kind), sizes, fill);
  }

  private static Input.Fill fill(String text) {
    if (text.startsWith("<")) {
      return Input.Fill.index(Long.parseLong(text.substring(1)));
    }
    int open = text.indexOf('(');
    String kind = open < 0 ? text : text.substring(0, open);
    List<Double> numbers =
        open < 0
            ? List.of()
            : OperatorSchema.splitTop(text.substring(open + 1, text.length() - 1), ',').stream()
                .map(Double::valueOf)
                .toList();
    return new Input.Fill(Input.Fill.Kind.valueOf(kind.toUpperCase(Locale.ROOT)), numbers);
  }
}
