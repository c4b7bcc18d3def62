// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Describes one argument before it is made on a device. */
sealed interface Input {

  /**
   * A tensor.
   *
   * @param dtype null for the trial's dtype
   * @param sizes its shape
   * @param fill its kind of values
   */
  record OfTensor(ScalarType dtype, List<Long> sizes, Fill fill) implements Input {
    @Override
    public String toString() {
      return (dtype == null ? "v" : dtype.toString())
          + sizes.toString().replace(" ", "")
          + (fill.kind() == Fill.Kind.NORMAL ? "" : ":" + fill);
    }
  }

  /** A list of anything. */
  record OfList(List<Input> elements) implements Input {
    @Override
    public String toString() {
      return elements.stream().map(Input::toString).collect(Collectors.joining(",", "(", ")"));
    }
  }

  /** A number, a text or a boolean; null is None. */
  record Plain(Object value) implements Input {
    @Override
    public String toString() {
      return String.valueOf(value);
    }
  }

  /** A complex number. */
  record OfComplex(double real, double imaginary) implements Input {
    @Override
    public String toString() {
      return real + "+" + imaginary + "j";
    }
  }

  /** The trial's device. */
  record OnDevice() implements Input {
    @Override
    public String toString() {
      return "<device>";
    }
  }

  /** A generator of the device, freshly seeded. */
  record OfGenerator() implements Input {
    @Override
    public String toString() {
      return "<generator>";
    }
  }

  /** The trial's dtype. */
  record OfDtype() implements Input {
    @Override
    public String toString() {
      return "<dtype>";
    }
  }

  /** The schema's default. */
  record Default() implements Input {
    @Override
    public String toString() {
      return "<default>";
    }
  }

  /** The storage of a tensor. */
  record OfStorage(OfTensor tensor) implements Input {
    @Override
    public String toString() {
      return "storage of " + tensor;
    }
  }

  /** A tensor that is always on the CPU, because libtorch requires it. */
  record OnCpu(OfTensor tensor) implements Input {
    @Override
    public String toString() {
      return "cpu:" + tensor;
    }
  }

  /** An out argument; its tensor depends on the trial. */
  record Out(int index) implements Input {
    @Override
    public String toString() {
      return "<out>";
    }
  }

  /**
   * The kind of values of a tensor.
   *
   * @param kind the family
   * @param numbers its parameters
   */
  record Fill(Kind kind, List<Double> numbers) {
    enum Kind {
      NORMAL,
      UNIT,
      POSITIVE,
      INDEX,
      SPD,
      SYMMETRIC,
      TRIL,
      TRIU,
      SORTED,
      PERM,
      SIGN,
      CONST,
      VALUES,
      PROBABILITIES
    }

    static final Fill NORMAL = new Fill(Kind.NORMAL, List.of());

    static Fill index(long below) {
      return new Fill(Kind.INDEX, List.of((double) below));
    }

    static Fill of(Kind kind, double... numbers) {
      return new Fill(kind, Arrays.stream(numbers).boxed().toList());
    }

    @Override
    public String toString() {
      return kind.name().toLowerCase(java.util.Locale.ROOT) + (numbers.isEmpty() ? "" : numbers);
    }
  }

  /** A list of out arguments, as long as the list of results. */
  record OutList() implements Input {
    @Override
    public String toString() {
      return "<outs>";
    }
  }

  static OfTensor tensor(ScalarType dtype, Fill fill, long... sizes) {
    return new OfTensor(dtype, Arrays.stream(sizes).boxed().toList(), fill);
  }

  static OfList longs(long... values) {
    return new OfList(Arrays.stream(values).<Input>mapToObj(Plain::new).toList());
  }
}
