// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import io.remora.runtime.ReadTimeoutException;
import java.lang.ref.Reference;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Function;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.IValue;
import org.bytedeco.pytorch.IValueVector;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.Layout;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Everything observable about a call's results and about its effects on its arguments. */
final class Snapshot {

  /**
   * One fact: its place ({@code result 0}); dtype, shape, strides and aliasing, or the value itself
   * if it is not a tensor; and a tensor's values in row-major order.
   */
  private static final class Fact {
    private final String place;
    private final String text;
    private final ScalarType dtype;
    private final CompletionStage<Tensor> reading;
    private byte[] bytes;
    private boolean[] undefined;

    Fact(String place, String text, ScalarType dtype, CompletionStage<Tensor> reading) {
      this.place = place;
      this.text = text;
      this.dtype = dtype;
      this.reading = reading;
    }

    void complete() {
      if (reading == null) {
        return;
      }
      try {
        bytes = bytes(reading.toCompletableFuture().get(READ_LIMIT_SECONDS, TimeUnit.SECONDS));
      } catch (ExecutionException e) {
        throw e.getCause() instanceof RuntimeException cause
            ? cause
            : new IllegalStateException(e.getCause());
      } catch (TimeoutException e) {
        throw new ReadTimeoutException("No value of " + place, e);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new IllegalStateException(e);
      }
    }

    int elementSize() {
      return switch (dtype) {
        case Float, ComplexFloat, Int, UInt32 -> 4;
        case Double, ComplexDouble, Long, UInt64 -> 8;
        case Half, BFloat16, ComplexHalf, Short, UInt16 -> 2;
        default -> 1;
      };
    }

    double number(int element) {
      ByteBuffer buffer = ByteBuffer.wrap(bytes).order(ByteOrder.nativeOrder());
      return Snapshot.number(dtype, buffer, element * elementSize());
    }

    int elements() {
      return bytes.length / elementSize();
    }

    /** Whether the element has the same bits, or is NaN in both. */
    boolean same(Fact other, int element) {
      int size = elementSize();
      int from = element * size;
      return Arrays.equals(bytes, from, from + size, other.bytes, from, from + size)
          || (Double.isNaN(number(element)) && Double.isNaN(other.number(element)));
    }
  }

  private static final int READ_LIMIT_SECONDS = 60;

  private final Function<Tensor, CompletionStage<Tensor>> reader;

  private final List<Fact> facts = new ArrayList<>();

  /** Whether some result is a tensor that remote devices do not support: sparse or quantized. */
  boolean exotic;

  /** Tensors among the results, flattened. */
  final List<Tensor> results = new ArrayList<>();

  /** Finds the tensors among the results. */
  static List<Tensor> tensorsOf(IValueVector stack) {
    List<Tensor> found = new ArrayList<>();
    for (long i = 0; i < stack.size(); i++) {
      IValue value = stack.get(i);
      if (value.isTensor()) {
        found.add(value.toTensor());
      } else if (value.isTensorList()) {
        TensorVector list = value.toTensorVector();
        for (long k = 0; k < list.size(); k++) {
          found.add(list.get(k));
        }
      }
    }
    return found;
  }

  private Snapshot(Function<Tensor, CompletionStage<Tensor>> reader) {
    this.reader = reader;
  }

  /** An empty snapshot. */
  static Snapshot reading(Function<Tensor, CompletionStage<Tensor>> reader) {
    return new Snapshot(reader);
  }

  /**
   * Records everything; {@link #complete()} waits for the values.
   *
   * @param values whether to record the results' values
   * @param inputs whether to record the arguments as well
   * @param reader gives a tensor's values on the CPU
   */
  static Snapshot of(
      IValueVector stack,
      Arguments arguments,
      boolean values,
      boolean inputs,
      Function<Tensor, CompletionStage<Tensor>> reader) {
    Snapshot snapshot = new Snapshot(reader);
    for (long i = 0; i < stack.size(); i++) {
      snapshot.add("result " + i, stack.get(i), arguments, values);
    }
    if (inputs) {
      for (int i = 0; i < arguments.tensors.size(); i++) {
        Tensor tensor = arguments.tensors.get(i);
        snapshot.add("argument tensor " + i, tensor, "", false);
      }
      for (int i = 0; i < arguments.bases.size() && values; i++) {
        snapshot.add("storage of argument tensor " + i, arguments.bases.get(i), "", true);
      }
    }
    return snapshot;
  }

  private void add(String place, IValue value, Arguments arguments, boolean values) {
    if (value.isTensor()) {
      Tensor tensor = value.toTensor();
      add(place, tensor, alias(tensor, arguments), values);
      results.add(tensor);
    } else if (value.isTensorList()) {
      TensorVector list = value.toTensorVector();
      facts.add(new Fact(place, "list of " + list.size(), null, null));
      for (long i = 0; i < list.size(); i++) {
        Tensor tensor = list.get(i);
        add(place + "[" + i + "]", tensor, alias(tensor, arguments), values);
        results.add(tensor);
      }
    } else {
      facts.add(new Fact(place, plain(value), null, null));
    }
  }

  private static String plain(IValue value) {
    if (value.isInt()) {
      return "int " + value.toInt();
    } else if (value.isDouble()) {
      return "double " + value.toDouble();
    } else if (value.isBool()) {
      return "bool " + value.toBool();
    } else if (value.isComplexDouble()) {
      var number = value.toComplexDouble();
      return "complex " + number.real() + " " + number.imag();
    } else if (value.isString()) {
      return "string " + value.toStringRef().getString();
    } else if (value.isIntList()) {
      var list = value.toIntVector();
      return "ints " + Arrays.toString(list.get());
    }
    return value.isNone() ? "None" : value.tagKind().getString();
  }

  /** Adds a tensor that is neither a result nor an argument, such as a gradient. */
  void add(String place, Tensor tensor, String alias, boolean values) {
    if (!tensor.defined()) {
      facts.add(new Fact(place, "undefined", null, null));
      return;
    }
    ScalarType dtype = tensor.scalar_type().intern();
    if (tensor.layout().intern() != Layout.Strided || isQuantized(dtype)) {
      exotic = true;
      facts.add(new Fact(place, tensor.layout() + " " + dtype, null, null));
      return;
    }
    String text =
        dtype
            + " "
            + Arrays.toString(tensor.sizes().vec().get())
            + " strides "
            + Arrays.toString(tensor.strides().vec().get())
            + " offset "
            + tensor.storage_offset()
            + (tensor.is_conj() ? " conj" : "")
            + (tensor.is_neg() ? " neg" : "")
            + (tensor.requires_grad() ? " grad" : "")
            + (alias.isEmpty() ? "" : " " + alias);
    facts.add(new Fact(place, text, dtype, values ? reader.apply(solid(tensor.detach())) : null));
  }

  /** Gives memory to a zero tensor that has none. */
  private static Tensor solid(Tensor tensor) {
    return tensor._is_zerotensor() ? torch.zeros(tensor.shape(), options(tensor)) : tensor;
  }

  private static TensorOptions options(Tensor tensor) {
    return new TensorOptions(tensor.scalar_type()).device(new DeviceOptional(tensor.device()));
  }

  private static boolean isQuantized(ScalarType dtype) {
    return switch (dtype) {
      case QInt8, QUInt8, QInt32, QUInt4x2, QUInt2x4 -> true;
      default -> false;
    };
  }

  private String alias(Tensor tensor, Arguments arguments) {
    if (tensor.defined() && tensor._is_zerotensor()) {
      return "alone";
    } else if (!tensor.defined()
        || tensor.layout().intern() != Layout.Strided
        || !tensor.has_storage()) {
      return "";
    }
    List<String> shared = new ArrayList<>();
    long impl = tensor.unsafeGetTensorImpl().address();
    long storage = storage(tensor);
    for (int i = 0; i < arguments.tensors.size(); i++) {
      Tensor argument = arguments.tensors.get(i);
      if (argument.unsafeGetTensorImpl().address() == impl) {
        shared.add("is argument tensor " + i);
      } else if (argument.has_storage()
          && !argument._is_zerotensor()
          && storage(argument) == storage) {
        shared.add("shares with argument tensor " + i);
      }
    }
    for (int i = 0; i < results.size(); i++) {
      Tensor other = results.get(i);
      if (other.defined()
          && other.has_storage()
          && !other._is_zerotensor()
          && storage(other) == storage) {
        shared.add("shares with result tensor " + i);
      }
    }
    return shared.isEmpty() ? "alone" : String.join(", ", shared);
  }

  private static long storage(Tensor tensor) {
    return tensor.storage().unsafeGetStorageImpl().address();
  }

  private static byte[] bytes(Tensor tensor) {
    Tensor plain = tensor.resolve_conj().resolve_neg().contiguous();
    byte[] bytes = new byte[Math.toIntExact(plain.nbytes())];
    try {
      if (bytes.length > 0) {
        new BytePointer(plain.data_ptr()).capacity(bytes.length).get(bytes);
      }
    } finally {
      Reference.reachabilityFence(plain); // keeps the memory alive while it is read
    }
    return bytes;
  }

  /** Waits for the values; throws what reading them throws. */
  void complete() {
    facts.forEach(Fact::complete);
  }

  /** Marks values that differ in another run of the same call: they are undefined. */
  boolean markUndefined(Snapshot again) {
    boolean any = false;
    for (int i = 0; i < Math.min(facts.size(), again.facts.size()); i++) {
      Fact one = facts.get(i);
      Fact two = again.facts.get(i);
      if (one.bytes == null || two.bytes == null || one.bytes.length != two.bytes.length) {
        continue;
      }
      if (one.undefined == null) {
        one.undefined = new boolean[one.elements()];
      }
      for (int k = 0; k < one.undefined.length; k++) {
        if (!one.same(two, k)) {
          one.undefined[k] = true;
          any = true;
        }
      }
    }
    return any;
  }

  /** The first difference, or empty. */
  static String difference(Snapshot cpu, Snapshot remote) {
    if (cpu.facts.size() != remote.facts.size()) {
      return "CPU gives " + cpu.facts.size() + " values, remote " + remote.facts.size();
    }
    for (int i = 0; i < cpu.facts.size(); i++) {
      Fact expected = cpu.facts.get(i);
      Fact actual = remote.facts.get(i);
      if (!expected.text.equals(actual.text)) {
        return "%s: CPU %s | remote %s".formatted(expected.place, expected.text, actual.text);
      }
      if (expected.bytes != null) {
        String difference = difference(expected, actual);
        if (!difference.isEmpty()) {
          return "%s (%s): %s".formatted(expected.place, expected.text, difference);
        }
      }
    }
    return "";
  }

  private static String difference(Fact cpu, Fact remote) {
    if (Arrays.equals(cpu.bytes, remote.bytes)) {
      return "";
    }
    if (cpu.bytes.length != remote.bytes.length) {
      return "CPU has " + cpu.bytes.length + " bytes, remote " + remote.bytes.length;
    }
    int differing = 0;
    String first = "";
    for (int i = 0; i < cpu.elements(); i++) {
      boolean same = cpu.same(remote, i) || (cpu.undefined != null && cpu.undefined[i]);
      if (!same && differing++ == 0) {
        first = "element %d is %s on CPU, %s remote".formatted(i, cpu.number(i), remote.number(i));
      }
    }
    return differing == 0 ? "" : first + " (" + differing + " of " + cpu.elements() + ")";
  }

  private static double number(ScalarType dtype, ByteBuffer buffer, int at) {
    return switch (dtype) {
      case Float, ComplexFloat -> buffer.getFloat(at);
      case Double, ComplexDouble -> buffer.getDouble(at);
      case Long -> buffer.getLong(at);
      case Int -> buffer.getInt(at);
      case Short -> buffer.getShort(at);
      case BFloat16 -> Float.intBitsToFloat(buffer.getShort(at) << 16);
      case Half, ComplexHalf -> half(buffer.getShort(at));
      case Byte -> buffer.get(at) & 0xFF;
      case UInt16 -> buffer.getShort(at) & 0xFFFF;
      case UInt32 -> buffer.getInt(at) & 0xFFFFFFFFL;
      case UInt64 -> new BigInteger(Long.toUnsignedString(buffer.getLong(at))).doubleValue();
      case Float8_e5m2 -> half((short) (buffer.get(at) << 8));
      case Float8_e4m3fn -> float8(buffer.get(at));
      default -> buffer.get(at);
    };
  }

  /** Four bits of exponent, three of mantissa; no infinities. */
  private static double float8(byte bits) {
    int exponent = bits >> 3 & 0xF;
    int mantissa = bits & 7;
    if ((bits & 0x7F) == 0x7F) {
      return Double.NaN;
    }
    double value =
        exponent == 0 ? mantissa * 0x1p-9 : Math.scalb(1 + mantissa * 0x1p-3, exponent - 7);
    return Math.copySign(value, bits < 0 ? -1 : 1);
  }

  private static double half(short bits) {
    int exponent = bits >> 10 & 0x1F;
    int mantissa = bits & 0x3FF;
    double sign = bits < 0 ? -1 : 1;
    if (exponent == 0x1F) {
      return mantissa == 0 ? sign * Double.POSITIVE_INFINITY : Double.NaN;
    }
    double value =
        exponent == 0
            ? mantissa * 0x1p-24
            : (1 + mantissa * 0x1p-10) * Math.scalb(1.0, exponent - 15);
    return Math.copySign(value, sign);
  }
}
