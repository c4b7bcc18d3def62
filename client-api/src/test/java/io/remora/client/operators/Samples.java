// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Proposes arguments for an operator, which the CPU then accepts or refuses. */
final class Samples {

  private static final Set<String> INDEX_NAMES =
      Set.of("index", "indices", "target", "offsets", "batch_sizes", "ind", "targets", "labels");
  private static final Set<String> MASK_NAMES = Set.of("mask", "condition", "found_inf_mask");
  private static final Set<String> SIZE_NAMES =
      Set.of("size", "sizes", "self_sizes", "input_size", "input_sizes", "shape", "sym_size");

  /** Shapes that all tensors of a generic sample have; more than one dtype is tried for each. */
  private static final long[][] SHAPES = {
    {3, 5}, {4, 4}, {2, 3, 4, 5}, {5}, {2, 4, 4}, {2, 4, 4, 4}, {}, {2, 4, 4, 4, 4}
  };

  private final Hints hints;

  Samples(Hints hints) {
    this.hints = hints;
  }

  /** Samples from the table; empty if it has none. */
  List<List<Input>> hinted(OperatorSchema schema) {
    List<List<Input>> samples = new ArrayList<>();
    for (Map<String, Input> hint : hints.of(schema)) {
      samples.add(sample(schema, hint, SHAPES[1], false));
    }
    return samples;
  }

  /** Samples made from types and names alone. */
  List<List<Input>> generic(OperatorSchema schema) {
    List<List<Input>> samples = new ArrayList<>();
    for (long[] shape : SHAPES) {
      samples.add(sample(schema, Map.of(), shape, false));
    }
    if (schema.parameters().stream().anyMatch(p -> p.hasDefault() && p.holdsTensors())) {
      samples.add(1, sample(schema, Map.of(), SHAPES[1], true));
    }
    return samples.stream().distinct().toList();
  }

  private static List<Input> sample(
      OperatorSchema schema, Map<String, Input> hint, long[] shape, boolean everyTensor) {
    List<Input> sample = new ArrayList<>();
    int outs = 0;
    for (OperatorSchema.Parameter parameter : schema.parameters()) {
      Input given = hint.get(parameter.name());
      if (given != null) {
        sample.add(given);
      } else if (parameter.out()) {
        sample.add(parameter.list() ? new Input.OutList() : new Input.Out(outs));
        outs++;
      } else if (parameter.type().startsWith("Device") && !schema.takesTensors()) {
        sample.add(new Input.OnDevice());
      } else if (parameter.type().equals("Generator?") && everyTensor) {
        sample.add(new Input.OfGenerator());
      } else if (parameter.hasDefault() && !(everyTensor && parameter.holdsTensors())) {
        sample.add(new Input.Default());
      } else {
        sample.add(guess(parameter, shape));
      }
    }
    return sample;
  }

  private static Input guess(OperatorSchema.Parameter parameter, long[] shape) {
    String type = parameter.type();
    String name = parameter.name();
    long smallest = Arrays.stream(shape).min().orElse(1);
    if (parameter.holdsTensors()) {
      Input tensor;
      if (INDEX_NAMES.contains(name)) {
        tensor = Input.tensor(ScalarType.Long, Input.Fill.index(smallest), shape);
      } else if (MASK_NAMES.contains(name)) {
        tensor = Input.tensor(ScalarType.Bool, Input.Fill.NORMAL, shape);
      } else {
        tensor = Input.tensor(null, Input.Fill.NORMAL, shape);
      }
      return parameter.list() ? new Input.OfList(List.of(tensor, tensor)) : tensor;
    } else if (type.startsWith("SymInt[") || type.startsWith("int[")) {
      return longList(type, name, shape);
    } else if (type.startsWith("SymInt") || type.startsWith("int")) {
      return new Input.Plain(number(name));
    } else if (type.startsWith("Scalar[")) {
      return new Input.OfList(List.of(new Input.Plain(2.0), new Input.Plain(3.0)));
    } else if (type.startsWith("ScalarType")) {
      return new Input.OfDtype();
    } else if (type.startsWith("float[")) {
      return new Input.OfList(List.of(new Input.Plain(2.0), new Input.Plain(2.0)));
    } else if (type.startsWith("Scalar")) {
      return new Input.Plain(2L);
    } else if (type.startsWith("float")) {
      return new Input.Plain(0.5);
    } else if (type.startsWith("bool[")) {
      long count = Long.parseLong(type.replaceAll("\\D", ""));
      return new Input.OfList(
          java.util.stream.LongStream.range(0, count)
              .<Input>mapToObj(i -> new Input.Plain(true))
              .toList());
    } else if (type.startsWith("bool")) {
      return new Input.Plain(false);
    } else if (type.startsWith("Device")) {
      return new Input.OnDevice();
    } else if (type.startsWith("Generator")) {
      return new Input.OfGenerator();
    } else if (type.startsWith("str")) {
      return new Input.Plain("sum");
    } else if (type.startsWith("Layout") || type.startsWith("MemoryFormat")) {
      return new Input.Plain(0L);
    }
    return new Input.Plain(null);
  }

  private static Input longList(String type, String name, long[] shape) {
    String digits = type.replaceAll("\\D", "");
    if (SIZE_NAMES.contains(name) || (name.endsWith("size") && digits.isEmpty())) {
      return Input.longs(shape);
    }
    int count = digits.isEmpty() ? 1 : Integer.parseInt(digits);
    long value = name.contains("dim") || name.contains("pad") ? 0 : name.contains("size") ? 2 : 1;
    long[] values = new long[count];
    Arrays.fill(values, value);
    return Input.longs(values);
  }

  private static long number(String name) {
    return switch (name) {
      case "dim", "axis", "dim0", "start_dim", "start", "axis0", "storage_offset", "offset" -> 0;
      case "end", "n", "k", "chunks", "sections", "split_size" -> 2;
      case "size", "num_classes", "bins" -> 4;
      case "high" -> 5;
      default -> 1;
    };
  }
}
